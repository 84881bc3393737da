from dataclasses import replace
from pathlib import Path

import pytest
import torch

from made_runs import made_run
from svdistill.config import CacheConfig, DistillConfig
from svdistill.report.comparison import compare
from svdistill.report.figure import Section
from svdistill.report.networks import Missing, student_after, trained_teacher
from svdistill.report.runs import Run, find_runs
from svdistill.report.taps import (
    chosen_pairs,
    compares_channels,
    pairs_table,
    run_pairs,
    spectra_section,
)
from svdistill.taps import PairedTaps, TapPairs, pair_taps
from svdistill.training import cache_knowledge, distill


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


STAGES = tuple(f"stage{number}" for number in (1, 2, 3, 4))


def changed(run: Run, **config: object) -> Run:
    return replace(run, config={**run.config, **config})


def rows(run: Run) -> list[tuple[str, ...]]:
    table = pairs_table(run, run_pairs(run))
    assert table is not None
    return [tuple(cell.text for cell in row) for row in table.rows]


def test_stages_are_paired_as_in_training(of_timm: Run) -> None:
    found = run_pairs(of_timm)
    networks = trained_teacher(of_timm), student_after(of_timm)
    assert found == pair_taps(*networks, torch.rand(2, 3, 32, 32))
    table = pairs_table(of_timm, found)
    assert table is not None
    headings = [column.heading for column in table.columns]
    assert headings == ["teacher", "shape", "student", "shape", "adapter", "why these two"]
    assert isinstance(found, PairedTaps)
    first = found.rows[0]
    assert [cell.text for cell in table.rows[0]] == [
        first.teacher.path,
        "x".join(map(str, first.teacher.shape)),
        first.student.path,
        "x".join(map(str, first.student.shape)),
        f"{first.student.channels} → {first.teacher.channels}",
        first.why,
    ]
    assert "adapters map the student's channels" in table.caption


def test_without_a_loss_of_channels_there_is_no_adapter(of_timm: Run) -> None:
    run = changed(of_timm, loss="position_svd")
    table = pairs_table(run, run_pairs(run))
    assert table is not None
    assert "adapter" not in [column.heading for column in table.columns]
    assert "compares no channels" in table.caption
    assert not compares_channels(run)
    assert compares_channels(changed(of_timm, loss="fsp+soft_target"))


def test_the_seeds_networks_have_their_own(distilled: Run) -> None:
    assert [row[0] for row in rows(distilled)] == list(STAGES)
    assert {row[-1] for row in rows(distilled)} == {"the paper's"}


def test_the_paths_of_a_published_teacher_need_no_weights(of_timm: Run) -> None:
    published = changed(of_timm, teacher="timm:test_resnet")
    assert run_pairs(published) == run_pairs(of_timm)


def test_without_a_teacher_the_students_taps_may_be_known(distilled: Run, of_timm: Run) -> None:
    gone = changed(distilled, teacher="gone")
    assert run_pairs(gone) == TapPairs((), STAGES)
    assert rows(gone)[0] == ("stage1",)
    with pytest.raises(Missing, match="gone, is not there"):
        run_pairs(changed(of_timm, teacher="gone"))


def test_soft_targets_tap_nothing(of_timm: Run) -> None:
    run = changed(of_timm, loss="soft_target")
    assert run_pairs(run) == TapPairs((), ())
    assert pairs_table(run, run_pairs(run)) is None


def test_chosen_paths_are_known_without_any_network(of_timm: Run) -> None:
    run = changed(of_timm, teacher_taps=["layer1", "layer2"], student_taps=["a", "b"])
    assert chosen_pairs(run) == TapPairs(("layer1", "layer2"), ("a", "b"))
    table = pairs_table(run, chosen_pairs(run))
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [["layer1", "a"], ["layer2", "b"]]
    assert pairs_table(of_timm, chosen_pairs(of_timm)) is None


def test_a_store_says_what_was_tapped_of_its_teacher(of_timm: Run, tmp_path: Path) -> None:
    store, path = str(tmp_path / "store"), tmp_path / "student"
    teacher = of_timm.config["teacher"]
    shared = {"data": "digits", "train_size": 50, "augmentation": "none", "device": "cpu"}
    cache_knowledge(CacheConfig(output=store, teacher=teacher, views=1, **shared))
    options = {"network": "timm:test_resnet", "epochs": 1, **shared}
    distill(DistillConfig(output=str(path), knowledge=store, **options))
    (run,) = find_runs([path])
    assert {row[-1] for row in rows(run)} == {"for the store's tap"}
    assert [row[0] for row in rows(run)] == [row[2] for row in rows(run)]
    with pytest.raises(Missing, match="knowledge store"):
        run_pairs(changed(run, knowledge=str(tmp_path / "gone")), teacher)
