"""What lies in a folder counts as made only if it was made from the teacher and store planned."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.common.files import locked
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.paper.jobs import delete_unneeded_stores, is_finished, unfinished
from svdistill.paper.sources import is_in_use, other_sources
from svdistill.runs import load_student, read_card, save_weights
from svdistill.runs.directory import to_yaml
from svdistill.training import cache_knowledge
from tiny_runs import TINY

IMAGES = {"data": "digits", "train_size": 200, "augmentation": "paper"}


@pytest.fixture
def planned(tmp_path: Path, teacher_run: Path) -> tuple[CacheConfig, DistillConfig]:
    """A finished store, and a student that has not begun to read it."""
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_run, teacher)
    store = CacheConfig(
        output=str(tmp_path / "stores" / "svd"), teacher=str(teacher), **IMAGES, loss="svd", views=1
    )
    cache_knowledge(store)
    options = {**TINY, "augmentation": "paper", "loss": "svd"}
    student = DistillConfig(output=str(tmp_path / "a" / "svd-0"), knowledge=store.output, **options)
    return store.filled(), student.filled()


def begun(student: TrainConfig, *, finished: bool = False) -> None:
    folder = Path(student.output)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(student))
    if finished:
        (folder / "summary.json").write_text(json.dumps({}))


def changed(run: Path) -> None:
    """Train a teacher anew: its weights differ."""
    file = run / "student.safetensors"
    network, card = load_student(run), read_card(file)
    assert card is not None
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    save_weights(file, network, card)


def test_a_store_of_other_views_or_another_teacher_is_refused(
    planned: tuple[CacheConfig, DistillConfig], tmp_path: Path
) -> None:
    store, student = planned
    assert unfinished([store, student]) == [student]
    for name, value in (("views", 3), ("views_seed", 1)):
        with pytest.raises(RunError, match=f"with {name} {value}, as planned"):
            unfinished([replace(store, **{name: value}), student])
    other = tmp_path / "other"
    shutil.copytree(store.teacher, other)
    assert unfinished([replace(store, teacher=str(other)), student]) == [student]
    changed(other)
    begun(student, finished=True)
    with pytest.raises(RunError, match=r"with teacher '.*other', as planned"):
        unfinished([replace(store, teacher=str(other)), student])


def test_a_store_is_checked_again_where_its_teacher_was_trained_again(
    planned: tuple[CacheConfig, DistillConfig],
) -> None:
    store, student = planned
    changed(Path(store.teacher))
    assert unfinished([store, student]) == [store, student]
    with pytest.raises(RunError, match="teacher_sha256"):
        cache_knowledge(replace(store, resume=True))
    begun(student, finished=True)
    assert unfinished([store, student]) == []


def test_a_finished_run_of_another_teacher_is_refused(teacher_run: Path, tmp_path: Path) -> None:
    copied, other = tmp_path / "copied", tmp_path / "other"
    for folder in (copied, other):
        shutil.copytree(teacher_run, folder)
    changed(other)
    made = DistillConfig(output=str(tmp_path / "run"), teacher=str(teacher_run), **TINY).filled()
    begun(made, finished=True)
    for teacher in (copied, tmp_path / "moved"):
        assert is_finished(replace(made, teacher=str(teacher)))
    with pytest.raises(RunError, match=r"a run with teacher '.*other', as planned"):
        is_finished(replace(made, teacher=str(other)))
    with pytest.raises(RunError, match="a run with teacher '', as planned"):
        is_finished(replace(made, teacher="", knowledge="a store"))


def test_a_run_of_another_kind_or_without_an_option_is_not_what_is_planned(tmp_path: Path) -> None:
    alone = TrainConfig(**{**TINY, "output": str(tmp_path / "run")})
    taught = DistillConfig(**{**TINY, "output": alone.output}, knowledge="a store")
    begun(alone.filled(), finished=True)
    assert is_finished(alone)
    config = Path(alone.output) / "config.yaml"
    config.write_text(config.read_text().replace("ema: null\n", ""))  # made before there was one
    assert is_finished(alone)
    for other, named in ((replace(alone, ema=0.9), "ema 0.9"), (taught, "loss 'position_gram")):
        with pytest.raises(RunError, match=f"a run with {named}.*, as planned"):
            is_finished(other)
    shutil.rmtree(alone.output)
    begun(taught.filled(), finished=True)
    with pytest.raises(RunError, match="a run with loss None, as planned"):
        is_finished(alone)


def test_names_of_a_library_and_stores_that_are_gone() -> None:
    def others(name: str, planned: str, made: str) -> list[str]:
        return list(other_sources({name: planned}, {name: made}))

    assert others("teacher", "timm:resnet18", "timm:resnet34") == ["teacher"]
    assert others("teacher", "timm:resnet18", "timm:resnet18") == []
    assert others("knowledge", "no/store", "gone/store") == []
    assert others("knowledge", "no/store", "") == ["knowledge"]


def test_a_store_that_another_command_uses_is_kept(
    planned: tuple[CacheConfig, DistillConfig], tmp_path: Path
) -> None:
    store, student = planned
    begun(student, finished=True)
    other = replace(student, output=str(tmp_path / "b" / "svd-1"))
    begun(other)
    delete_unneeded_stores([store, student])
    assert Path(store.output).exists()
    (Path(other.output) / "summary.json").write_text("{}")
    with locked(Path(store.output)):
        assert is_in_use(store.output)
    delete_unneeded_stores([store, student])
    assert not Path(store.output).exists()


@pytest.mark.parametrize(
    ("made", "planned", "named"),
    [
        ({"teacher_precision": None}, {"teacher_precision": "auto"}, ""),
        ({"teacher_precision": "bf16"}, {"precision": "auto"}, ""),
        ({"teacher_precision": "bf16"}, {"precision": "auto", "teacher_precision": "float32"}, "x"),
    ],
)
def test_only_a_precision_that_was_to_be_chosen_may_differ(
    made: dict[str, str], planned: dict[str, str], named: str, teacher_run: Path, tmp_path: Path
) -> None:
    run = DistillConfig(output=str(tmp_path / "run"), teacher=str(teacher_run), **TINY).filled()
    begun(replace(run, **made), finished=True)
    if not named:
        assert is_finished(replace(run, **planned))
        return
    with pytest.raises(RunError, match="teacher_precision 'float32', as planned"):
        is_finished(replace(run, **planned))
