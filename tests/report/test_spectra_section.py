from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import made_run

from svdistill.report.comparisons import compare
from svdistill.report.part import Part
from svdistill.report.runs import Run, find_runs
from svdistill.report.spectra_section import spectra_section


def shown(*runs: Run, data: str | None = None) -> Part:
    (part,) = spectra_section(compare(runs), data)
    return part


def test_a_run_with_its_weights_is_looked_at(distilled: Run) -> None:
    part = shown(distilled)
    assert len(part.figures) == 2
    assert part.missing == ()


def test_the_teacher_may_be_among_the_runs(distilled: Run) -> None:
    """A run from a store names no teacher, and one that was moved names where it was."""
    (teacher,) = find_runs([distilled.path.parent / "teacher"])
    for moved in ({"teacher": ""}, {"teacher": "/gone/teacher"}):
        run = replace(distilled, config={**distilled.config, **moved})
        assert shown(run).figures == ()
        assert len(shown(run, teacher).figures) == 2


def test_one_of_several_teachers_is_never_guessed(distilled: Run) -> None:
    (teacher,) = find_runs([distilled.path.parent / "teacher"])
    other = replace(teacher, path=teacher.path.parent / "teacher-1")
    run = replace(distilled, config={**distilled.config, "teacher": "", "knowledge": "store"})
    (sentence,) = shown(run, teacher, other).missing
    assert "its teacher, which it read from a knowledge store" in sentence


def test_images_that_were_moved_are_found(distilled: Run) -> None:
    run = replace(distilled, config={**distilled.config, "data": "parquet:/gone/digits"})
    assert "its images" in shown(run).missing[0]
    assert len(shown(run, data="digits").figures) == 2


def test_the_reason_is_said_where_nothing_can_be_looked_at(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"), data="digits", loss="svd", teacher="t")
    assert shown(run).missing == (
        f"Not drawn: {tmp_path / 'run'} lacks its weights (student.safetensors).",
    )
    assert shown(made_run("alone")).missing == ("Not drawn: no student was taught.",)


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
