from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import made_run
from svdistill.report.comparison import compare
from svdistill.report.figure import Section
from svdistill.report.runs import Run, find_runs
from svdistill.report.taps import spectra_section


def shown(*runs: Run, data: str | None = None) -> Section:
    (part,) = spectra_section(compare(runs).pairs, data)
    return part


def test_a_run_with_its_weights_is_looked_at(distilled: Run) -> None:
    part = shown(distilled)
    assert len(part.figures) == 2
    assert part.missing == ()


def test_the_teacher_may_be_among_the_runs(distilled: Run) -> None:
    """A run from a store names no teacher, and one that was moved names where it was."""
    (teacher,) = find_runs([distilled.path.parent / "teacher"])
    for moved in ({"teacher": "", "knowledge": "gone"}, {"teacher": "/gone/teacher"}):
        run = replace(distilled, config={**distilled.config, **moved})
        assert "The teacher is not shown" in shown(run).missing[0]
        part = shown(run, teacher)
        assert (len(part.figures), part.missing) == (2, ())


def test_one_of_several_teachers_is_never_guessed(distilled: Run) -> None:
    (teacher,) = find_runs([distilled.path.parent / "teacher"])
    other = replace(teacher, path=teacher.path.parent / "teacher-1")
    run = replace(distilled, config={**distilled.config, "teacher": "", "knowledge": "store"})
    part = shown(run, teacher, other)
    (sentence,) = part.missing
    assert "learnt from a knowledge store, and its teacher is not available" in sentence
    assert len(part.figures) == 1


def test_images_that_were_moved_are_found(distilled: Run) -> None:
    run = replace(distilled, config={**distilled.config, "data": "parquet:/gone/digits"})
    part = shown(run)
    assert "the images of" in part.missing[0]
    assert (part.figures, part.table is None) == ((), False)
    assert len(shown(run, data="digits").figures) == 2


def test_the_reason_is_said_where_nothing_can_be_looked_at(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"), data="digits", loss="svd", teacher="t")
    assert shown(run).missing == (
        f"Not shown: {tmp_path / 'run'} lacks its weights (student.safetensors).",
    )
    assert shown(made_run("alone")).missing == ("Not drawn: no student was distilled.",)


def test_damaged_weights_are_a_reason_too(distilled: Run, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"cut short")
    (sentence,) = shown(replace(distilled, path=tmp_path)).missing
    assert "expected a .safetensors file" in sentence


@pytest.mark.parametrize("loss", ["fsp", "soft_target"])
def test_svd_is_looked_at_before_other_methods(distilled: Run, loss: str) -> None:
    better = replace(
        distilled,
        config={**distilled.config, "loss": loss},
        summary=replace(distilled.summary, last_accuracy=100.0),
    )
    assert ", SVD" in shown(better, distilled).figures[0].title


def test_networks_of_other_libraries_are_looked_at(of_timm: Run) -> None:
    part = shown(of_timm)
    assert part.table is not None
    (figure,) = part.figures
    assert "Spectra of the taps, timm:test_vit" in figure.title
    (sentence,) = part.missing
    assert "No distillation feature vectors are drawn" in sentence
    assert "adapters" in sentence


def test_a_loss_of_positions_needs_no_adapters(of_timm: Run) -> None:
    run = replace(of_timm, config={**of_timm.config, "loss": "position_svd"})
    assert "adapters" not in shown(run).missing[0]


def test_where_nothing_was_tapped_that_is_said(of_timm: Run) -> None:
    run = replace(of_timm, config={**of_timm.config, "loss": "soft_target"})
    part = shown(run)
    assert (part.figures, part.table) == ((), None)
    assert part.missing == ("No feature maps were tapped: the loss reads logits alone.",)


def test_taps_that_were_chosen_are_shown_of_ones_own_code(tmp_path: Path, of_timm: Run) -> None:
    chosen = {"teacher_taps": ["layer1"], "student_taps": ["stages.0"]}
    run = made_run(str(tmp_path), "stranger:net", loss="svd", teacher="t", **chosen)
    part = shown(run)
    assert part.table is not None
    assert [cell.text for cell in part.table.rows[0]] == ["layer1", "stages.0"]
    assert part.missing[0].startswith("Not shown: ")
