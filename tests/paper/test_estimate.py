from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor

from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData, load_images
from svdistill.paper import estimate
from svdistill.paper.estimate import Estimator
from svdistill.paper.jobs import Job
from svdistill.paper.plan import plan
from svdistill.paper.presets import METHODS, PAIRS, PRESETS, method_of_loss
from svdistill.training import train

SMOKE = replace(PRESETS["smoke"], seeds=2)


def images_of(jobs: list[Job]) -> dict[str, ImageData]:
    data = load_images("digits", train_size=200)
    return {job.output: data for job in jobs}


def test_every_kind_of_run_gets_a_time_and_longer_ones_more(tmp_path: Path) -> None:
    jobs = plan([(PAIRS[1], METHODS)], SMOKE, tmp_path)
    data = images_of(jobs)
    estimator = Estimator(jobs, data)
    seconds = {Path(job.output).name: estimator.seconds(job) for job in jobs}
    assert all(0 < time < 600 for time in seconds.values())
    assert seconds["svd-0"] == seconds["svd-1"]
    alone = next(job for job in jobs if job.output.endswith("student-0"))
    assert isinstance(alone, TrainConfig)
    tenfold = replace(alone, epochs=10 * alone.epochs, output=str(tmp_path / "longer"))
    # Timed anew, on a machine that does other things: anything near ten will do.
    data[tenfold.output] = data[alone.output]
    assert 3 < Estimator(jobs, data).seconds(tenfold) / seconds["student-0"] < 30


def test_a_loss_with_modules_of_its_own_gets_a_time(tmp_path: Path) -> None:
    method = method_of_loss("projecting_loss:ProjectingLoss")
    jobs = plan([(PAIRS[1], [method])], replace(SMOKE, seeds=1), tmp_path)
    estimator = Estimator(jobs, images_of(jobs))
    assert all(0 < estimator.seconds(job) < 600 for job in jobs)


@pytest.mark.parametrize("faster", ["float32", "bf16"])
def test_with_precision_auto_the_faster_one_counts(
    faster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(step: Callable[[], object], images: Tensor) -> float:
        step()
        evaluates = not isinstance(step, partial)
        return (1.0 if evaluates or step.args[0] == faster else 2.0) / len(images)

    monkeypatch.setattr(estimate, "_seconds_per_image", timed)
    alone, *_ = plan([(PAIRS[1], METHODS[:1])], SMOKE, tmp_path)
    assert isinstance(alone, TrainConfig)
    seconds = {}
    for precision in ("float32", "bf16", "auto"):
        job = replace(alone, precision=precision)
        seconds[precision] = Estimator([job], images_of([job])).seconds(job)
    assert seconds["auto"] == seconds[faster] < max(seconds.values())


def test_a_finished_run_of_another_seed_tells(tmp_path: Path) -> None:
    jobs = plan([(PAIRS[1], METHODS[:1])], SMOKE, tmp_path)
    first, second = jobs
    assert isinstance(first, TrainConfig)
    train(replace(first, epochs=1))
    summary = Path(first.output) / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "seconds": 1234.5}))
    estimator = Estimator(jobs, images_of(jobs))
    assert estimator.seconds(second) == pytest.approx(1234.5)


def test_evaluations_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = plan([(PAIRS[1], METHODS)], SMOKE, tmp_path)
    data = images_of(jobs)
    for name in ("_time_teaching", "_time_transfer"):
        monkeypatch.setattr(Estimator, name, lambda *_: 0.0)
    monkeypatch.setattr(Estimator, "_times_alone", lambda *_: (0.0, 1.0))
    estimator = Estimator(jobs, data)
    for job in jobs:
        evaluations = 1 if isinstance(job, CacheConfig) else job.epochs
        if isinstance(job, DistillConfig):  # before training the student, and a live teacher
            evaluations += job.transfer_epochs + 1 + bool(job.teacher)
        assert estimator.seconds(job) == evaluations * len(data[job.output].test), job.output
