"""What a person sees of an experiment: the plan, the progress, the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from svdistill.common import duration
from svdistill.config import CacheConfig
from svdistill.paper.estimate import Estimator
from svdistill.paper.plan import Task
from svdistill.paper.running import Outcome
from svdistill.report import Run, method_rows, run_table
from svdistill.runs import read_summary

# A teacher that is not so many points above its student alone has little to teach it.
TEACHERS_LEAD = 3.0


def expected_time(left: Sequence[Task], estimator: Estimator, jobs: int) -> str:
    """How long the runs that are left will take, so many at a time, on one line."""
    seconds = sum(estimator.seconds(task) for task in left)
    return f"{duration(seconds)} of computing, {jobs} at a time: about {duration(seconds / jobs)}"


def plan_table(
    tasks: Sequence[Task], left: Sequence[Task], root: Path, estimator: Estimator
) -> Table:
    """The runs in their order, each with the time that it will take, if it is left.

    Args:
        tasks: all runs and stores.
        left: those that are not finished.
        root: the folder of all.
        estimator: of their times.
    """
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("epochs", justify="right")
    table.add_column("expected time", justify="right")
    for task in tasks:
        expected = duration(estimator.seconds(task)) if task in left else "finished"
        table.add_row(str(Path(task.output).relative_to(root)), _epochs(task), expected)
    return table


class Progress:
    """A line for each run that ends, with the time that is left.

    Args:
        left: the runs to be made.
        estimator: of their times.
        jobs: runs at a time.
        console: where the lines go.
    """

    def __init__(
        self, left: Sequence[Task], estimator: Estimator, jobs: int, console: Console
    ) -> None:
        self.left = list(left)
        self.estimator = estimator
        self.jobs = jobs
        self.console = console
        self.total = len(left)
        self.failures: list[Outcome] = []

    def ended(self, outcome: Outcome) -> None:
        """One run has ended."""
        self.left.remove(outcome.task)
        if outcome.failure is not None:
            self.failures.append(outcome)
        # A run that another seed has been timed for costs nothing to estimate again.
        seconds = sum(self.estimator.seconds(task) for task in self.left) / self.jobs
        self.console.print(
            f"[{self.total - len(self.left)}/{self.total}] {outcome.task.output}: "
            f"{_result(outcome)}; about {duration(seconds)} left",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def show_tables(runs: Sequence[Run], console: Console) -> None:
    """Print a table for each pair of networks, and say where a teacher has little to teach.

    Args:
        runs: finished ones, in the order of the rows.
        console: where to.
    """
    teachers = {run.pair: run for run in runs if run.is_teacher}
    pairs = dict.fromkeys(run.pair for run in runs if not run.is_teacher)
    for pair in pairs:
        teacher = teachers.get(pair) or teachers.get(pair.partition("_")[0])
        mine = [*([teacher] if teacher else []), *(run for run in _students(runs, pair))]
        rows = method_rows((run.row, run.summary) for run in mine)
        console.print(run_table(rows, pair))
        alone = [row for row in rows if row.method == "student alone"]
        if teacher and alone:
            _say_lead(teacher.summary.last_accuracy, alone[0].last, console)


def _students(runs: Sequence[Run], pair: str) -> list[Run]:
    return [run for run in runs if run.pair == pair and not run.is_teacher]


def _say_lead(teacher: float, alone: Sequence[float], console: Console) -> None:
    lead = teacher - sum(alone) / len(alone)
    note = "" if lead >= TEACHERS_LEAD else ": little to teach it; train it longer, or another one"
    console.print(f"teacher {lead:+.1f} points from its student alone{note}", highlight=False)


def _epochs(task: Task) -> str:
    if isinstance(task, CacheConfig):
        return f"{task.views} views"
    first = getattr(task, "transfer_epochs", 0)
    return f"{first} + {task.epochs}" if first else str(task.epochs)


def _result(outcome: Outcome) -> str:
    task = outcome.task
    if outcome.failure is not None:
        return f"failed: {outcome.failure}"
    if isinstance(task, CacheConfig):
        return "stored"
    summary = read_summary(Path(task.output))
    return f"{summary.last_accuracy:.2f} % in {duration(summary.seconds)}"
