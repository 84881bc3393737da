from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from svdistill.common.errors import ArgumentError
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.paper.plan import Task, default_methods, default_pairs, find_methods, needs, plan
from svdistill.paper.presets import CORE, METHODS, PAIRS, PRESETS, every_method, find_pairs

ROOT = Path("runs")


def planned(experiment: str, preset_name: str, seeds: int = 1) -> list[Task]:
    preset = replace(PRESETS[preset_name], seeds=seeds)
    pairs = find_pairs(default_pairs(experiment, preset))
    rows = [(pair, default_methods(experiment, pair, preset)) for pair in pairs]
    return plan(rows, preset, ROOT)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", ["networks", "multitask", "dfv", "large"])
def test_every_planned_run_is_one_that_the_commands_accept(experiment: str, preset: str) -> None:
    tasks = planned(experiment, preset, seeds=2)
    for task in tasks:
        task.check()
    assert len({task.output for task in tasks}) == len(tasks)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_run_needs_comes_before_it(preset: str) -> None:
    made: set[str] = set()
    for task in planned("networks", preset, seeds=2):
        assert needs(task) <= made
        made.add(task.output)


def test_one_seed_of_everything_comes_before_the_second_of_anything() -> None:
    tasks = planned("networks", "paper", seeds=3)
    students = [task.seed for task in tasks if "student" in getattr(task, "network", "")]
    assert students == sorted(students)
    assert students.count(0) == students.count(1) == students.count(2) > 0


def test_a_teacher_is_trained_once_for_all_its_students_and_both_its_pairs() -> None:
    tasks = planned("networks", "mini", seeds=3)
    teachers = [task.network for task in tasks if "teacher" in getattr(task, "network", "")]
    assert sorted(teachers) == ["mobilenet_teacher", "vgg_teacher"]
    stores = [task.output for task in tasks if isinstance(task, CacheConfig)]
    assert sorted(stores) == [
        f"runs/stores/{name}"
        for teacher in ("mobilenet-teacher", "vgg-teacher")
        for name in (teacher, f"{teacher}-positions")
    ]


def test_a_student_of_positions_reads_the_store_of_positions() -> None:
    tasks = {task.output: task for task in planned("networks", "mini")}
    student = tasks["runs/vgg/position-svd-soft-target-0"]
    assert isinstance(student, DistillConfig)
    store = tasks[student.knowledge]
    assert isinstance(store, CacheConfig)
    assert (store.loss, store.num_vectors) == (student.loss, student.num_vectors)


def test_the_seed_preset_is_the_seeds_protocol() -> None:
    tasks = planned("networks", "paper")
    for task in tasks:
        assert isinstance(task, TrainConfig)
        assert (task.epochs, task.batch_size, task.learning_rate) == (200, 128, 0.01)
        assert (task.weight_decay, task.schedule, task.augmentation) == (1e-4, "paper", "paper")
        assert (task.width, task.classes_every, task.max_grad_norm) == (1.0, 1, None)
    by_name = {task.output: task for task in tasks}
    seeds_own = by_name["runs/vgg/svd-0"]
    assert isinstance(seeds_own, DistillConfig)
    assert (seeds_own.loss, seeds_own.clip, seeds_own.num_vectors) == ("svd", "norm", 1)
    assert (seeds_own.task_weight, seeds_own.transfer_weight) == (1.0, 1.0)


def test_the_pairs_are_run_in_the_seeds_order() -> None:
    assert default_pairs("networks", PRESETS["paper"]) == (
        *("vgg", "vgg_stride", "mobilenet", "resnext"),
    )
    tasks = planned("networks", "paper")
    folders = [Path(task.output).parent.name for task in tasks if isinstance(task, DistillConfig)]
    assert list(dict.fromkeys(folders)) == ["vgg", "vgg-stride", "mobilenet", "resnext"]


def test_students_that_are_taught_read_the_views_that_the_others_draw() -> None:
    tasks = {task.output: task for task in planned("networks", "mini")}
    alone, store = tasks["runs/vgg-stride/student-0"], tasks["runs/stores/vgg-teacher"]
    assert isinstance(alone, TrainConfig)
    assert isinstance(store, CacheConfig)
    assert (alone.views, alone.views_seed) == (store.views, store.views_seed) == (24, 0)
    assert alone.augmentation == store.augmentation
    fsp = tasks["runs/vgg-stride/fsp-2-stage-0"]
    assert isinstance(fsp, DistillConfig)
    assert (fsp.views, fsp.views_seed, fsp.knowledge) == (24, 0, "")


def test_two_stages_have_epochs_of_transfer_alone() -> None:
    two = find_methods(("svd-2-stage", "svd"))
    tasks = {
        Path(task.output).name: task
        for task in plan([(PAIRS[0], two)], replace(PRESETS["mini"], seeds=1), ROOT)
    }
    assert tasks["svd-2-stage-0"].transfer_epochs == PRESETS["mini"].transfer_epochs > 0
    assert tasks["svd-0"].transfer_epochs == 0


def test_the_number_of_vectors_is_counted_from_none_to_sixteen() -> None:
    tasks = planned("dfv", "mini")
    counts = {(task.clip, task.num_vectors) for task in tasks if isinstance(task, DistillConfig)}
    assert counts == {(clip, k) for clip in ("norm", "amortised") for k in (1, 2, 4, 8, 16)}
    assert any(task.output.endswith("vgg-stride/student-0") for task in tasks)


def test_method_names_are_unique_and_the_core_is_in_every_table() -> None:
    names = [method.name for method in every_method()]
    assert len(set(names)) == len(names)
    assert {method.name for method in CORE} <= {method.name for method in METHODS}


def test_a_mistyped_method_or_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="svd-amortised"):
        find_methods(("svd-amortized",))
    with pytest.raises(ArgumentError, match="mobilenet"):
        find_pairs(("mobilnet",))
