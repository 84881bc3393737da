"""`svdistill reproduce`: make all runs of one of the paper's tables or figures by one command."""

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
from svdistill.data import open_images
from svdistill.paper.console_output import JobReporter, show_tables
from svdistill.paper.estimate import Estimator
from svdistill.paper.jobs import (
    Job,
    JobProcesses,
    JobResult,
    default_count,
    delete_unneeded_stores,
    is_finished,
    job_images,
    require_images,
    run_jobs,
    unfinished,
)
from svdistill.paper.plan import (
    DOMAINS,
    EXPERIMENTS,
    default_methods,
    default_pairs,
    domains_preset,
    find_methods,
    plan,
    plan_domains,
)
from svdistill.paper.presets import PRESETS, Preset, find_pairs
from svdistill.report import Run, find_runs, write_report

LARGE_SIZE: Final = 64

# Share of the training images that `search` holds out to choose settings on. The teacher has
# learned from these images too.
HELD_OUT: Final = 0.2

SMOKE_SIZE: Final = 32  # side of images in pixels; so small that any data set takes seconds

# The paper does not name the classes of its ImageNet-50; 50 classes are drawn with seed 0 instead.
IMAGENET_CLASSES: Final = "50@0"


@dataclass(kw_only=True)
class ReproduceConfig:
    """Make the runs of one of the paper's tables or figures.

    Args:
        preset: Epochs, width and classes: `smoke` (seconds), `mini` (hours on a CPU), `full` (all
            classes at full width, about 55 hours of one core for one seed of the table) or `paper`
            (its protocol, for a GPU).
        network: Pairs of networks, by commas, such as `vgg,mobilenet`; empty for the preset's.
        method: Methods, by commas, such as `student,svd`; empty for the experiment's. A loss is
            one too, as `svdistill distill --loss` takes it.
        seeds: Trainings of each student; empty for the preset's number.
        data: Where images come from, as for `svdistill train`; empty for the preset's.
        classes: `N@SEED` uses N of the classes, drawn by their names; empty for the preset's. Of
            `domains`, the teacher's classes; its students learn the others.
        teacher_data: For `domains`, where the teacher's images come from; empty for those of data.
        output: Folder for all runs; empty for runs/PRESET. Finished runs in it are not repeated.
        device: `auto`, `cpu` or `cuda`.
        jobs: Runs at a time; empty for one per core, or three on a GPU. On a CPU each gets an equal
            share of the cores as threads, whatever OMP_NUM_THREADS says.
        keep_memory: Keep freed memory in the processes for the next step: faster on a CPU.
        max_seconds: Stop after this time. The same command continues.
        dry_run: Only list images, classes and runs, with the expected times.
    """

    preset: str = "mini"
    network: str = ""
    method: str = ""
    seeds: int | None = None
    data: str = ""
    classes: str = ""
    teacher_data: str = ""
    output: str = ""
    device: str = "auto"
    jobs: int | None = None
    keep_memory: bool = True
    max_seconds: float | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        require_choice("preset", self.preset, PRESETS)
        for name in ("seeds", "jobs"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.max_seconds is not None:
            require_positive("max_seconds", self.max_seconds)


def reproduce(
    experiment: str, config: ReproduceConfig, *, console: Console | None = None
) -> list[Run]:
    """Make the runs of one of the paper's tables or figures, and a page of all results.

    Teachers are trained first and are shared by their students. Finished runs are skipped, stopped
    runs resume. With `dry_run` the runs are only listed.

    Args:
        experiment: `"networks"` (every method on every pair), `"multitask"` (one stage against
            two), `"dfv"` (numbers of vectors), `"rivals"` (losses of other papers), `"search"`
            (four settings of each loss, on held-out images), `"ablation"` (variants of the losses
            on positions), `"large"` (images of 64x64), or `"domains"` (the teacher has learned
            other classes than the students).
        config: the preset, and changes to it.
        console: where progress and tables are printed; nothing is printed by default.

    Returns:
        The finished runs of this experiment.

    Raises:
        SVDistillError: a value is invalid, data is missing, or a folder holds a run with other
            options; or, raised at the end, some runs failed.
    """
    require_choice("experiment", experiment, EXPERIMENTS)
    config.check()
    console = console or Console(quiet=True)
    preset = customised(experiment, config)
    root = Path(config.output or f"runs/{preset.name}")
    jobs = _jobs(experiment, config, preset, root)
    images = job_images(jobs)
    left = unfinished(jobs)
    for job in jobs:
        require_images(job, images[job.output].fingerprint)
    count = config.jobs or default_count(config.device)
    processes = JobProcesses(count, max(1, available_cores() // count), config.keep_memory)
    reporter = JobReporter(left, Estimator(jobs, images, processes.threads).seconds, count, console)
    heading = f"{len(jobs)} runs, {len(left)} to do, in {root}"
    console.print(heading, markup=False, highlight=False, soft_wrap=True)
    reporter.show_images(jobs, images)
    if config.dry_run:
        reporter.show_plan(jobs, root)
        return []

    def ended(result: JobResult) -> None:
        reporter.ended(result)
        if not preset.keep_stores and result.failure is None:
            delete_unneeded_stores(jobs)

    stopped = run_jobs(left, processes, ended=ended, max_seconds=config.max_seconds)
    made = [job for job in jobs if not isinstance(job, CacheConfig) and is_finished(job)]
    runs = [run for job in made for run in find_runs([job.output])]
    show_tables(runs, console)
    if runs:
        page = write_report([root], root / "report.html")
        console.print(f"page: {page}", highlight=False, soft_wrap=True)
    if reporter.failures:
        raise TrainingError(
            "runs",
            expected="all of them to finish",
            got="; ".join(f"{one.job.output}: {one.failure}" for one in reporter.failures),
            remedy="the others are kept; the same command tries these again",
        )
    if stopped:
        console.print(f"{len(stopped)} runs are left; the same command goes on", highlight=False)
    return runs


def customised(experiment: str, config: ReproduceConfig) -> Preset:
    """Return the chosen preset with the changes that the experiment and the options make to it."""
    preset = PRESETS[config.preset]
    if experiment == "large" and not config.data:
        raise ArgumentError(
            "data",
            expected="images of a large data set",
            got="nothing",
            remedy="give --data tiny_imagenet:PATH, or --data folder:PATH with ImageNet's classes",
        )
    changes: dict[str, Any] = {"device": config.device}
    classes = config.classes
    if config.data:
        changes["data"] = config.data
    if experiment == "large":
        changes |= {"image_size": LARGE_SIZE, "classes_every": 1}
        if config.data.startswith("folder:"):
            classes = classes or IMAGENET_CLASSES
    if config.data and config.preset == "smoke":
        opened, few = open_images(config.data, SMOKE_SIZE), preset.student.train_size or 1
        few = min(max(few, len(opened.class_names)), len(opened.train.labels))
        changes = {"image_size": SMOKE_SIZE, "train_size": few, **changes}
    if config.teacher_data and experiment != DOMAINS:
        raise ArgumentError(
            "teacher_data",
            expected="nothing in an experiment whose teacher has its students' images",
            got=repr(config.teacher_data),
            remedy="leave it out, or reproduce domains",
        )
    if classes and experiment != DOMAINS:
        changes |= {"classes": classes, "classes_every": 1}
    held_out: dict[str, Any] = {"dev_fraction": HELD_OUT} if experiment == "search" else {}
    preset = replace(
        preset,
        teacher=replace(preset.teacher, **changes),
        student=replace(preset.student, **changes, **held_out),
        seeds=config.seeds or preset.seeds,
    )
    return domains_preset(preset, classes, config.teacher_data) if experiment == DOMAINS else preset


def _jobs(experiment: str, config: ReproduceConfig, preset: Preset, root: Path) -> list[Job]:
    pairs = find_pairs(_names(config.network) or default_pairs(experiment, preset))
    methods = find_methods(_names(config.method))
    rows = [(pair, methods or default_methods(experiment, pair, preset)) for pair in pairs]
    return (plan_domains if experiment == DOMAINS else plan)(rows, preset, root)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
