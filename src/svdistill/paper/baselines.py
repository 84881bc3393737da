"""Compare a loss with the student alone and with plain soft targets, over several seeds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from svdistill.common import (
    ArgumentError,
    Cell,
    Table,
    available_cores,
    columns,
    mean_cell,
    require_count,
)
from svdistill.config import (
    SAID_BY_STORE,
    CacheConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
)
from svdistill.losses import OPTIONS, is_compact, reads_logits, titles
from svdistill.paper.console_output import JobReporter
from svdistill.paper.jobs import (
    Job,
    JobProcesses,
    JobResult,
    default_count,
    job_images,
    require_images,
    run_jobs,
    unfinished,
)
from svdistill.report import t_interval, write_report
from svdistill.runs import RunDirectory, read_summary, stored_values
from svdistill.training import trained_image_size

SEEDS: Final = 3  # default number of seeds of a comparison with baselines

ALONE: Final = "student alone"

SOFT: Final = "soft_target"

(SOFT_TITLE,) = titles(SOFT)

OF_LOSS: Final = (*OPTIONS, "task_weight", "transfer_weight", "soft_target_weight", "clip")


class Gain(NamedTuple):
    """A mean difference in percentage points, and its 95 % interval, which is None for one seed."""

    mean: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        interval = "" if self.interval is None else " ({:+.1f} to {:+.1f})".format(*self.interval)
        return f"{self.mean:+.1f}{interval}"


def compare_seeds(
    config: DistillConfig,
    seeds: int | None = None,
    *,
    baseline: bool = False,
    jobs: int | None = None,
    keep_memory: bool = True,
    console: Console | None = None,
) -> Table:
    """Distill a student with several seeds, and print what it gains over its baselines.

    Finished runs in the folder are kept, stopped runs resume. If `views` is set and the teacher's
    knowledge is small enough to store, it is computed once and read by all students.

    Args:
        config: the student's configuration; `output` is the folder for all runs, `seed` the first
            seed.
        seeds: number of seeds; None for 1, or for 3 with baselines.
        baseline: whether the student is also trained alone and by plain soft targets.
        jobs: number of runs at a time; None for one per core, or three on a GPU.
        keep_memory: whether the processes keep freed memory, see `svdistill.keep_memory`.
        console: where progress, table and verdict are printed; nothing is printed by default.

    Returns:
        The table of the methods' accuracies and gains.

    Raises:
        SVDistillError: a value is invalid, `output` is itself a run directory, or a folder in it
            holds a run with other options, or of another teacher or other images.
        TrainingError: a run failed; the others are kept, and the same call continues.
    """
    config.check()
    for name, count in (("seeds", seeds), ("jobs", jobs)):
        if count is not None:
            require_count(name, count)
    console, folder = console or Console(quiet=True), Path(config.output)
    if RunDirectory(folder).config.exists():
        raise ArgumentError(
            "output",
            expected="a folder for several runs",
            got=f"{folder}, which is one run",
            remedy="choose another --output",
        )
    planned, runs = _plan(config, seeds or (SEEDS if baseline else 1), baseline)
    left = unfinished(planned)
    _require_same_images(planned)
    at_a_time = min(jobs or default_count(config.device), max(len(left), 1))
    processes = JobProcesses(at_a_time, max(1, available_cores() // at_a_time), keep_memory)
    console.print(f"{', '.join(runs)}: {len(planned)} runs, {len(left)} to do, in {folder}")
    reporter = JobReporter(left, lambda _: _usual_seconds(planned), at_a_time, console)

    def ended(result: JobResult) -> None:
        reporter.ended(result)
        result.require_finished("the others are kept; the same command goes on")

    with console.status("training; a line for each run that ends"):
        run_jobs(left, processes, ended=ended)
    accuracies = {
        method: [read_summary(job.output).last_accuracy for job in made]
        for method, made in runs.items()
    }
    table = gain_table(accuracies)
    console.print(table)
    if baseline:
        console.print(verdict(accuracies), soft_wrap=True)
    page = write_report([folder], folder / "report.html", console=console)
    console.print(f"page: {page}", soft_wrap=True)
    return table


def _require_same_images(jobs: Sequence[Job]) -> None:
    """Raise `RunError` if a run in the folder was made on other images than those of `--data`.

    Images are read only if the run names another place: a run that goes on compares its own.
    """
    runs = [(job, RunDirectory(job.output).config) for job in jobs]
    moved = [job for job, made in runs if made.exists() and stored_values(made)["data"] != job.data]
    images = job_images(moved)
    for job in moved:
        require_images(job, images[job.output].fingerprint)


def _plan(
    config: DistillConfig, seeds: int, baseline: bool
) -> tuple[list[Job], dict[str, list[TrainConfig]]]:
    """Plan the comparison: all jobs in the order in which they are run, and each method's runs."""
    folder, stores = Path(config.output), list[Job]()
    if config.image_size is None:
        config = replace(config, image_size=trained_image_size(config))
    if config.views and config.augmentation == "none":
        config = replace(config, views=1)  # without augmentation all views are the same
    if (
        config.views
        and config.teacher
        and config.mix is None
        and is_compact(config.loss, vars(config))
    ):
        stores = [_store(config, folder / "store")]
        config = replace(config, views_seed=config.views_seed or 0)
    methods: dict[str, TrainConfig] = {" + ".join(titles(config.loss)): config}
    if baseline:
        shared = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
        methods = {
            ALONE: TrainConfig(**{**shared, "unlabelled": ""}),
            SOFT_TITLE: _by_soft_targets(config),
            **methods,
        }
    runs: dict[str, list[TrainConfig]] = {method: [] for method in methods}
    for number in range(seeds):
        for method, of_method in methods.items():
            seed = config.seed + number
            name = re.sub(r"\W+", "-", "student" if method == ALONE else method.lower())
            run = replace(of_method, seed=seed, output=str(folder / f"{name}-{seed}"))
            if stores and isinstance(run, DistillConfig):
                run = replace(run, knowledge=stores[0].output, **SAID_BY_STORE)
            runs[method].append(run.filled())
    return [*stores, *(run for made in zip(*runs.values(), strict=True) for run in made)], runs


def _by_soft_targets(config: DistillConfig) -> DistillConfig:
    """The same configuration with plain soft targets as the loss, with their usual weights."""
    if config.loss == SOFT:
        return config
    left_out: dict[str, Any] = dict.fromkeys(OF_LOSS)
    if SOFT in config.loss.split("+"):
        left_out["temperature"] = config.temperature
    return replace(config, loss=SOFT, transfer_epochs=0, **left_out)


def _store(config: DistillConfig, output: Path) -> CacheConfig:
    """The job for the knowledge store that all students read, soft targets included."""
    shared = {f.name: getattr(config, f.name) for f in fields(TeacherConfig)}
    # If the loss reads logits, the store holds them already; otherwise soft targets add them.
    loss = config.loss if reads_logits(config.loss) else f"{config.loss}+{SOFT}"
    precision = config.teacher_precision or config.precision
    return CacheConfig(
        **{**shared, "output": str(output), "loss": loss},
        views=config.views,
        views_seed=config.views_seed or 0,
        # fp16 is no precision of stores: it is there for the student's gradients.
        precision="float32" if precision == "fp16" else precision,
        device=config.device,
    ).filled()


def _usual_seconds(jobs: Sequence[Job]) -> float:
    """The mean duration of the finished runs in seconds; 0 if none is finished."""
    summaries = [Path(job.output) / "summary.json" for job in jobs]
    times = [read_summary(file.parent).seconds for file in summaries if file.exists()]
    return statistics.fmean(times) if times else 0.0


def paired_gain(ours: Sequence[float], others: Sequence[float]) -> Gain:
    """The mean difference of two methods' accuracies, paired by seed, in percentage points.

    Example:
        >>> str(paired_gain([72.0, 74.0, 73.0], [70.0, 71.0, 72.0]))
        '+2.0 (-0.5 to +4.5)'
        >>> str(paired_gain([72.0], [70.0]))
        '+2.0'
    """
    differences = [one - other for one, other in zip(ours, others, strict=True)]
    return Gain(statistics.fmean(differences), t_interval(differences))


def gain_table(accuracies: Mapping[str, Sequence[float]]) -> Table:
    """A table with a row for each method: its accuracy in percent, its gain over each baseline.

    The last method is the one compared; the methods before it are the baselines.
    """
    baselines, rows = list(accuracies)[:-1], []
    for place, (method, found) in enumerate(accuracies.items()):
        gains = [paired_gain(found, accuracies[name]) for name in baselines[:place]]
        cells = [Cell(str(gain), gain.mean) for gain in gains]
        cells += [Cell("")] * (len(baselines) - len(cells))
        rows.append((Cell(method), mean_cell(found), *cells))
        seeds = len(found)
    headings = ("accuracy %", *(f"over {name}" for name in baselines))
    caption = (
        f"Test accuracy after the last epoch, mean ± standard deviation of {seeds} seed(s). Gains "
        "in points, with their 95 % interval over the seeds (paired, Student's t)."
    )
    return Table("", columns("", *headings), tuple(rows), caption)


def verdict(accuracies: Mapping[str, Sequence[float]]) -> str:
    """A sentence on whether the last method is shown to be better than all methods before it.

    Example:
        >>> verdict({"student alone": [60.0, 61.0], "SVD": [63.0, 64.1]})
        'worth it: SVD gains +3.0 (+2.4 to +3.7) points over the student alone'
        >>> verdict({"student alone": [60.0, 61.0], "SVD": [60.0, 64.0]})
        'not shown: the gain of SVD over the student alone, +1.5 (-17.6 to +20.6) points, may be \
chance; more seeds narrow the interval'
    """
    *others, ours = accuracies
    gains = {name: paired_gain(accuracies[ours], accuracies[name]) for name in others}
    for name, gain in gains.items():
        if gain.interval is None:
            return "not shown: one seed says nothing about the spread between seeds; give --seeds 3"
        low, high = gain.interval
        if high < 0:
            return f"not worth it: {ours} loses against the {name}, {gain} points"
        if low <= 0:
            return (
                f"not shown: the gain of {ours} over the {name}, {gain} points, may be chance; "
                "more seeds narrow the interval"
            )
    told = " and ".join(f"{gain} points over the {name}" for name, gain in gains.items())
    return f"worth it: {ours} gains {told}"
