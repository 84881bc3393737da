from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from svdistill.common.errors import ArgumentError
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.paper.jobs import Job, needs
from svdistill.paper.plan import EXPERIMENTS, default_methods, default_pairs, find_methods, plan
from svdistill.paper.presets import CORE, METHODS, PAIRS, PRESETS, every_method, find_pairs

ROOT = Path("runs")


def planned(experiment: str, preset_name: str, seeds: int = 1, **changes: Any) -> list[Job]:
    preset = replace(PRESETS[preset_name], seeds=seeds, **changes)
    pairs = find_pairs(default_pairs(experiment, preset))
    rows = [(pair, default_methods(experiment, pair, preset)) for pair in pairs]
    return plan(rows, preset, ROOT)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_planned_run_is_one_that_the_commands_accept(experiment: str, preset: str) -> None:
    jobs = planned(experiment, preset, seeds=2)
    for job in jobs:
        job.check()
    assert len({job.output for job in jobs}) == len(jobs)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_run_needs_comes_before_it(preset: str) -> None:
    made: set[str] = set()
    for job in planned("networks", preset, seeds=2):
        assert needs(job) <= made
        made.add(job.output)


def test_one_seed_of_everything_comes_before_the_second_of_anything() -> None:
    jobs = planned("networks", "paper", seeds=3)
    students = [job.seed for job in jobs if "student" in getattr(job, "network", "")]
    assert students == sorted(students)
    assert students.count(0) == students.count(1) == students.count(2) > 0


def test_a_teacher_is_trained_once_for_all_its_students_and_both_its_pairs() -> None:
    jobs = planned("networks", "mini", seeds=3)
    teachers = [job.network for job in jobs if "teacher" in getattr(job, "network", "")]
    assert sorted(teachers) == ["mobilenet_teacher", "vgg_teacher"]
    stores = [job.output for job in jobs if isinstance(job, CacheConfig)]
    assert sorted(stores) == [
        f"runs/stores/{name}"
        for teacher in ("mobilenet-teacher", "vgg-teacher")
        for name in (teacher, f"{teacher}-svd-k16")
    ]


def test_one_store_serves_every_loss_with_its_default_options() -> None:
    jobs = {job.output: job for job in planned("networks", "full")}
    (store,) = [
        job for job in jobs.values() if isinstance(job, CacheConfig) and "vgg" in job.output
    ]
    assert (store.num_vectors, store.grid) == (None, None)
    readers = [job for job in jobs.values() if getattr(job, "knowledge", "") == store.output]
    assert {job.loss for job in readers} == {
        *("soft_target", "svd", "position_svd+soft_target", "position_gram+dist"),
    }
    for job in readers:
        kept = set(job.loss.split("+")) - {"dist"}  # it reads the logits, as soft targets do
        assert kept <= set(store.loss.split("+"))


@pytest.mark.parametrize(
    ("loss", "preset", "stored"),
    [
        ("position_svd+position_gram", "mini", True),
        ("svd+position_gram", "full", True),
        ("svd+position_gram", "mini", False),  # whose stores of SVD hold 16 vectors, and no more
        ("position_gram+cosine", "full", False),  # the cosines are of another grid
    ],
)
def test_several_losses_on_maps_read_a_store_only_if_it_holds_them(
    loss: str, preset: str, stored: bool
) -> None:
    rows = [(PAIRS[0], find_methods((loss,)))]
    *others, student = plan(rows, replace(PRESETS[preset], seeds=1), ROOT)
    assert any(isinstance(job, CacheConfig) for job in others) == stored
    assert isinstance(student, DistillConfig)
    assert bool(student.knowledge) == stored == (not student.teacher)


def test_more_vectors_have_a_store_of_their_own() -> None:
    jobs = {job.output: job for job in planned("networks", "mini")}
    store = jobs["runs/stores/vgg-teacher-svd-k16"]
    assert isinstance(store, CacheConfig)
    assert (store.loss, store.num_vectors) == ("svd+soft_target", 16)
    assert {job.loss for job in jobs.values() if getattr(job, "knowledge", "") == store.output} == {
        "svd",
        "svd+soft_target",
    }


def test_rivals_that_compare_gram_matrices_share_a_store() -> None:
    jobs = {job.output: job for job in planned("rivals", "mini")}
    gram = "runs/stores/vgg-teacher-position-gram-grid8"
    readers = {Path(job.output).name for job in jobs.values() if gram in needs(job)}
    assert readers == {
        f"{name}-0" for name in ("position-gram-grid8-soft-target", "cosine-soft-target")
    }
    assert (jobs[gram].loss, jobs[gram].grid) == ("position_gram+soft_target", 8)


def test_rivals_have_the_weights_of_their_papers() -> None:
    jobs = {Path(job.output).name: job for job in planned("rivals", "mini")}
    for name, weights in {
        "dist-0": (1.0, 1.0),
        "dkd-0": (1.0, 1.0),
        "lskd-0": (0.1, 1.0),
        "at-soft-target-0": (0.1, 1.0),
    }.items():
        assert (jobs[name].task_weight, jobs[name].transfer_weight) == weights
    assert (jobs["dkd-0"].nontarget_weight, jobs["dkd-8-0"].nontarget_weight) == (2.0, 8.0)
    assert jobs["lskd-0"].temperature == 2.0


def test_the_search_tries_four_settings_of_each_loss_beside_the_runs_on_all_images() -> None:
    students = [job for job in planned("search", "mini") if isinstance(job, DistillConfig)]
    losses = Counter(job.loss for job in students)
    assert set(losses.values()) == {4}
    assert {"soft_target", "dist", "dkd", "lskd", "position_gram+soft_target"} <= set(losses)
    settings = {(j.loss, j.task_weight, j.transfer_weight, j.soft_target_weight) for j in students}
    assert len(settings) == len(students)
    assert all(Path(job.output).parent.name == "vgg-stride" for job in students)
    held_out = replace(PRESETS["mini"].student, dev_fraction=0.2)
    apart = planned("search", "mini", student=held_out)
    for job in apart:
        if isinstance(job, TrainConfig) and "teacher" in str(job.network):
            assert job.dev_fraction == 0.0
        else:
            assert "-search" in job.output
            assert job.dev_fraction == 0.2


def test_the_ablation_changes_one_property_at_a_time() -> None:
    jobs = {Path(job.output).name: job for job in planned("ablation", "mini")}
    for base, names in {
        "position-svd-soft-target-0": ("num_vectors", "grid"),
        "position-gram-grid4-soft-target-0": ("grid", "transfer_weight", "teacher_taps"),
    }.items():
        whole = asdict(jobs[base])
        kind = base.removesuffix("-soft-target-0").removesuffix("-grid4")
        variants = [
            job for name, job in jobs.items() if name.startswith(f"{kind}-") and name != base
        ]
        assert len(variants) >= 5
        for job in variants:
            if "soft_target" in job.loss:
                assert sum(asdict(job)[name] != whole[name] for name in names) == 1


def test_the_preset_paper_is_the_papers_protocol() -> None:
    jobs = planned("networks", "paper")
    for job in jobs:
        assert isinstance(job, TrainConfig)
        assert (job.epochs, job.batch_size, job.learning_rate) == (200, 128, 0.01)
        assert (job.weight_decay, job.schedule, job.augmentation) == (1e-4, "paper", "paper")
        bound = None if job.output.endswith("teacher") else 5.0  # soft targets diverge without
        assert (job.width, job.classes_every, job.max_grad_norm) == (1.0, 1, bound)
    by_name = {job.output: job for job in jobs}
    papers_own = by_name["runs/vgg/svd-0"]
    assert isinstance(papers_own, DistillConfig)
    assert (papers_own.loss, papers_own.clip, papers_own.num_vectors) == ("svd", "norm", 1)
    assert (papers_own.task_weight, papers_own.transfer_weight) == (1.0, 1.0)


def test_the_preset_full_is_what_its_documentation_says() -> None:
    jobs = planned("networks", "full")
    for job in jobs:
        if isinstance(job, CacheConfig):
            assert job.views == 30
            continue
        assert job.epochs == 30
        assert (job.width, job.classes_every, job.max_grad_norm) == (1.0, 1, 5.0)
        of_teacher = job.output.endswith("teacher")
        recipe = ("one_cycle", 0.03, None) if of_teacher else ("cosine", 0.06, 0.0)
        assert (job.schedule, job.learning_rate, job.dropout) == recipe
        assert job.weight_decay == 5e-4
        assert job.augmentation == "crop_flip"
        assert job.precision == "auto"
    assert not PRESETS["full"].keep_stores


def test_the_pairs_are_run_in_the_papers_order() -> None:
    assert default_pairs("networks", PRESETS["paper"]) == (
        *("vgg", "vgg_stride", "mobilenet", "resnext"),
    )
    jobs = planned("networks", "paper")
    folders = [Path(job.output).parent.name for job in jobs if isinstance(job, DistillConfig)]
    assert list(dict.fromkeys(folders)) == ["vgg", "vgg-stride", "mobilenet", "resnext"]


def test_students_that_are_taught_read_the_views_that_the_others_draw() -> None:
    jobs = {job.output: job for job in planned("networks", "mini")}
    alone, store = jobs["runs/vgg-stride/student-0"], jobs["runs/stores/vgg-teacher"]
    assert isinstance(alone, TrainConfig)
    assert isinstance(store, CacheConfig)
    assert (alone.views, alone.views_seed) == (store.views, store.views_seed) == (24, 0)
    assert alone.augmentation == store.augmentation
    fsp = jobs["runs/vgg-stride/fsp-2-stage-0"]
    assert isinstance(fsp, DistillConfig)
    assert (fsp.views, fsp.views_seed, fsp.knowledge) == (24, 0, "")


def test_two_stages_have_epochs_of_transfer_alone() -> None:
    two = find_methods(("svd-2-stage", "svd"))
    jobs = {
        Path(job.output).name: job
        for job in plan([(PAIRS[0], two)], replace(PRESETS["mini"], seeds=1), ROOT)
    }
    assert jobs["svd-2-stage-0"].transfer_epochs == PRESETS["mini"].transfer_epochs > 0
    assert jobs["svd-0"].transfer_epochs == 0


def test_the_number_of_vectors_is_counted_from_none_to_sixteen() -> None:
    jobs = planned("dfv", "mini")
    counts = {(job.clip, job.num_vectors) for job in jobs if isinstance(job, DistillConfig)}
    assert counts == {(clip, k) for clip in ("norm", "amortised") for k in (1, 2, 4, 8, 16)}
    assert any(job.output.endswith("vgg-stride/student-0") for job in jobs)


def test_method_names_are_unique_and_the_core_is_in_every_table() -> None:
    names = [method.name for method in every_method()]
    assert len(set(names)) == len(names)
    assert {method.name for method in CORE} <= {method.name for method in METHODS}


def test_a_mistyped_method_or_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="svd-amortised"):
        find_methods(("svd-amortized",))
    with pytest.raises(ArgumentError, match="mobilenet"):
        find_pairs(("mobilnet",))
