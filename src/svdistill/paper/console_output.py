"""Output of `svdistill reproduce`: images, plan, a line for each finished job, and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable

from svdistill.common import (
    Cell,
    Table,
    columns,
    duration,
    few_classes,
    mean_cell,
    number_cell,
)
from svdistill.config import CacheConfig
from svdistill.data import ImageData
from svdistill.paper.jobs import Job, JobResult
from svdistill.report import Run, method_rows, run_table
from svdistill.runs import RunSummary, read_summary

# Percentage points by which a teacher should be better than its student alone.
TEACHERS_LEAD: Final = 3.0


class JobReporter:
    """Prints images and plan, and a line with the remaining time for each job that ends.

    Args:
        left: the jobs that are left to do.
        seconds: function that estimates the duration of a job.
        at_a_time: number of jobs that run at the same time.
        console: where to print.
    """

    def __init__(
        self, left: Sequence[Job], seconds: Callable[[Job], float], at_a_time: int, console: Console
    ) -> None:
        self.left = list(left)
        self.total = len(left)
        self.seconds = seconds
        self.at_a_time = at_a_time
        self.console = console
        self.failures: list[JobResult] = []

    def show_images(self, jobs: Sequence[Job], images: Mapping[str, ImageData]) -> None:
        """Print number, size and classes of the jobs' images, once for images that jobs share."""
        first: dict[int, Job] = {}
        for job in jobs:
            first.setdefault(id(images[job.output]), job)
        for job in first.values():
            data = images[job.output]
            size = "x".join(map(str, data.image_shape))
            counts = f"{len(data.train):,} training images, {len(data.test):,} test images"
            self._print(f"{job.data}: {counts}, {size}")
            self._print(few_classes(data.class_names))

    def show_plan(self, jobs: Sequence[Job], root: Path) -> None:
        """Print all jobs with the estimated times of unfinished ones, and the total time."""
        table = RichTable()
        table.add_column("run", overflow="fold")
        table.add_column("epochs", justify="right")
        table.add_column("expected time", justify="right")
        for job in jobs:
            expected = duration(self.seconds(job)) if job in self.left else "finished"
            table.add_row(str(Path(job.output).relative_to(root)), _epochs(job), expected)
        self.console.print(table)
        seconds = self._seconds_left()
        self._print(
            f"{duration(seconds)} of computing, {self.at_a_time} at a time: about "
            f"{duration(seconds / self.at_a_time)}"
        )

    def ended(self, result: JobResult) -> None:
        """Print the result of a job, and the remaining time."""
        self.left.remove(result.job)
        if result.failure is not None:
            self.failures.append(result)
        self._print(
            f"[{self.total - len(self.left)}/{self.total}] {result.job.output}: "
            f"{_outcome(result)}; about {duration(self._seconds_left() / self.at_a_time)} left"
        )

    def _seconds_left(self) -> float:
        return sum(self.seconds(job) for job in self.left)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_tables(runs: Sequence[Run], console: Console) -> None:
    """Print a table for each pair of networks, and the teacher's lead over its student alone.

    If the runs held out images, the table shows the accuracy on these images instead of the test
    accuracy, so that a setting can be chosen by it and then be measured on unused test images.
    """
    teachers = {run.pair: run for run in runs if run.is_teacher}
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run in runs:
        if not run.is_teacher:
            groups.setdefault((run.pair, run.config.get("train_size")), []).append(run)
    several = len({pair for pair, _ in groups}) < len(groups)
    for (pair, labels), members in groups.items():
        teacher = teachers.get(pair) or teachers.get(pair.partition("_")[0])
        if teacher is not None and any(_has_other_classes(run, teacher) for run in members):
            teacher = None  # accuracies cannot be compared
        rows = method_rows(_named([run for run in [teacher, *members] if run is not None]))
        title = f"{pair}, {labels or 'all'} labels" if several else pair
        console.print(_held_out_table(members, title) or run_table(rows, title))
        alone = [run.summary.last_accuracy for run in members if not run.is_distilled]
        if teacher and alone:
            lead = teacher.summary.last_accuracy - fmean(alone)
            advice = "" if lead >= TEACHERS_LEAD else ": too little; train it longer, or another"
            console.print(
                f"teacher {lead:+.1f} points from its student alone{advice}", highlight=False
            )


def _has_other_classes(run: Run, teacher: Run) -> bool:
    """Whether a student learned other classes than its pair's teacher, as far as that is known."""
    if run.is_distilled:
        return run.summary.teacher_accuracy is None
    if run.predictions is None or teacher.predictions is None:
        return False
    return set(run.predictions.class_names) != set(teacher.predictions.class_names)


def _named(runs: Sequence[Run]) -> list[tuple[str, RunSummary]]:
    """Summaries by the names of their rows; runs that chose other precisions form other rows."""
    precisions = [str(run.config.get("precision", "float32")) for run in runs]
    chosen = {(run.row, precision) for run, precision in zip(runs, precisions, strict=True)}
    several = Counter(row for row, _ in chosen)
    return [
        (run.row if several[run.row] == 1 else f"{run.row}, {precision}", run.summary)
        for run, precision in zip(runs, precisions, strict=True)
    ]


def _held_out_table(runs: Sequence[Run], title: str) -> Table | None:
    """A table of accuracies on held-out images after the last epoch, the best first.

    None if a run held out no images. Rows are named by the runs' folders without the seed, since
    the usual row names do not tell all settings of a search apart.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        accuracy = run.records[-1].dev_accuracy
        if accuracy is None:
            return None
        found.setdefault(run.path.name.removesuffix(f"-{run.summary.seed}"), []).append(accuracy)
    rows = tuple(
        (Cell(name), mean_cell(accuracies), number_cell(len(accuracies), "{}"))
        for name, accuracies in sorted(found.items(), key=lambda item: -fmean(item[1]))
    )
    return Table(title, columns("", "held-out %", "seeds"), rows)


def _epochs(job: Job) -> str:
    if isinstance(job, CacheConfig):
        return f"{job.views} views"
    first = getattr(job, "transfer_epochs", 0)
    return f"{first} + {job.epochs}" if first else str(job.epochs)


def _outcome(result: JobResult) -> str:
    if result.failure is not None:
        return f"failed: {result.failure}"
    if isinstance(result.job, CacheConfig):
        return "stored"
    summary = read_summary(Path(result.job.output))
    return f"{summary.last_accuracy:.2f} % in {duration(summary.seconds)}"
