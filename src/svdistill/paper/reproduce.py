"""`svdistill reproduce`: a table or figure of the paper, by one command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from svdistill.common import (
    ArgumentError,
    TrainingError,
    available_cores,
    require_choice,
    require_count,
    require_positive,
)
from svdistill.config import CacheConfig
from svdistill.paper.estimate import Estimator
from svdistill.paper.plan import (
    EXPERIMENTS,
    default_methods,
    default_pairs,
    delete_unneeded_stores,
    find_methods,
    is_finished,
    plan,
    require_images,
    unfinished,
)
from svdistill.paper.presets import PRESETS, Preset, find_pairs
from svdistill.paper.progress import Progress, expected_time, plan_table, show_tables
from svdistill.paper.running import Outcome, run_all
from svdistill.report import Run, find_runs, write_report
from svdistill.training import choose_device, load_data

GPU_JOBS: Final = 3

LARGE_SIZE: Final = 64

# ImageNet-50: the paper does not say which classes; these are drawn with seed 0.
IMAGENET_CLASSES: Final = "50@0"


@dataclass(kw_only=True)
class ReproduceConfig:
    """Make the runs of one of the paper's tables or figures.

    Args:
        preset: How long and how wide: `smoke` (seconds), `mini` (hours on a CPU), `full` (all
            classes at full width, days on a CPU) or `paper`.
        network: Pairs of networks, by commas, such as `vgg,mobilenet`; empty for the preset's.
        method: Methods, by commas, such as `student,svd`; empty for all of the experiment. A loss
            is one too, as `svdistill distill --loss` takes it.
        seeds: Trainings of each student; empty for the preset's number.
        data: Where images come from, as for `svdistill train`; empty for the preset's.
        output: Folder for all runs; empty for runs/PRESET. What is finished there is not repeated.
        device: `auto`, `cpu` or `cuda`.
        jobs: Runs at a time; empty for one a core, or three on a GPU.
        max_seconds: Stop after so many seconds. The same command goes on.
        dry_run: Only list the runs, with the time that they are expected to take.
    """

    preset: str = "mini"
    network: str = ""
    method: str = ""
    seeds: int | None = None
    data: str = ""
    output: str = ""
    device: str = "auto"
    jobs: int | None = None
    max_seconds: float | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first value that nothing can be made of."""
        require_choice("preset", self.preset, PRESETS)
        for name in ("seeds", "jobs"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.max_seconds is not None:
            require_positive("max_seconds", self.max_seconds)


def reproduce(
    experiment: str, config: ReproduceConfig, *, console: Console | None = None
) -> list[Run]:
    """Make the runs of one of the paper's tables or figures, and one page of all that came out.

    Teachers come first and are shared by their students. Finished runs are skipped, stopped ones go
    on. With `dry_run` nothing is made.

    Args:
        experiment: `"networks"` (every method on every pair), `"multitask"` (one stage against
            two), `"dfv"` (numbers of vectors), or `"large"` (images of 64x64).
        config: how long, on what, and which part of it.
        console: where progress and tables go; nowhere by default.

    Returns:
        The finished runs of this experiment.

    Raises:
        SVDistillError: a bad value; data that is missing; a run of other options in the place of
            one of these; or, at the end, runs that failed.
    """
    require_choice("experiment", experiment, EXPERIMENTS)
    config.check()
    console = console or Console(quiet=True)
    preset = customised(experiment, config)
    root = Path(config.output or f"runs/{preset.name}")
    rows = [
        (pair, find_methods(_names(config.method)) or default_methods(experiment, pair, preset))
        for pair in find_pairs(_names(config.network) or default_pairs(experiment, preset))
    ]
    tasks = plan(rows, preset, root)
    data = load_data(preset.student)
    left = unfinished(tasks)
    for task in tasks:
        require_images(task, data.fingerprint)
    jobs = config.jobs or _default_jobs(config.device)
    threads = max(1, available_cores() // jobs)
    estimator = Estimator(tasks, data, threads)
    heading = f"{len(tasks)} runs, {len(left)} to do, in {root}"
    console.print(heading, markup=False, highlight=False, soft_wrap=True)
    if config.dry_run:
        console.print(plan_table(tasks, left, root, estimator))
        console.print(expected_time(left, estimator, jobs), highlight=False, soft_wrap=True)
        return []
    progress = Progress(left, estimator, jobs, console)

    def ended(outcome: Outcome) -> None:
        progress.ended(outcome)
        if not preset.keep_stores and outcome.failure is None:
            delete_unneeded_stores(tasks)

    stopped = run_all(left, jobs=jobs, threads=threads, max_seconds=config.max_seconds, ended=ended)
    runs = [
        run
        for task in tasks
        if not isinstance(task, CacheConfig) and is_finished(task)
        for run in find_runs([task.output])
    ]
    show_tables(runs, console)
    if runs:
        console.print(
            f"page: {write_report([root], root / 'report.html', data=config.data or None)}",
            highlight=False,
            soft_wrap=True,
        )
    if progress.failures:
        raise TrainingError(
            "runs",
            expected="all of them to end well",
            got="; ".join(f"{one.task.output}: {one.failure}" for one in progress.failures),
            remedy="the others are kept, and the same command tries these again",
        )
    if stopped:
        console.print(f"{len(stopped)} runs are left; the same command goes on", highlight=False)
    return runs


def customised(experiment: str, config: ReproduceConfig) -> Preset:
    """The preset, with what the command line says otherwise."""
    preset = PRESETS[config.preset]
    if experiment == "large" and not config.data:
        raise ArgumentError(
            "data",
            expected="images of a large data set",
            got="nothing",
            remedy="give --data tiny_imagenet:PATH, or --data folder:PATH with ImageNet's classes",
        )
    changes: dict[str, Any] = {"device": config.device}
    if config.data:
        changes["data"] = config.data
    if experiment == "large":
        changes["image_size"] = LARGE_SIZE
        changes["classes_every"] = 1
        if config.data.startswith("folder:"):
            changes["classes"] = IMAGENET_CLASSES
    return replace(
        preset,
        teacher=replace(preset.teacher, **changes),
        student=replace(preset.student, **changes),
        seeds=config.seeds or preset.seeds,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _default_jobs(device: str) -> int:
    return GPU_JOBS if choose_device(device).type == "cuda" else available_cores()
