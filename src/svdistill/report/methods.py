"""The rows of a comparison: the runs of a row, its name, and its gain over the student alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from svdistill.report.protocol import published_accuracy
from svdistill.report.runs import TWO_STAGES, Config, Run, loss_name, row_options
from svdistill.report.settings import (
    TEXTS,
    TRAINING,
    by_teaching,
    seen_views,
    teachings,
    training_values,
)

# Speeds of two runs can be compared only if their machines agree in all of these.
MACHINE: Final = ("platform", "processor", "gpu", "threads")


@dataclass(frozen=True)
class MethodResult:
    """One row of a comparison: runs of one method that differ only in their seeds.

    "Student alone" means the student network trained without a teacher. Accuracies are in percent,
    gains in percentage points.

    Attributes:
        name: the row's name in tables and figures.
        runs: the runs, at least one, sorted by seed.
        is_teacher: whether the runs trained teachers of the other rows.
        training: the values of the settings in `TRAINING`; equal for rows that can be compared.
        taught: the part of the name by which it differs from rows of the same loss and training.
        alone: the row of the student alone with the same training and data; None if there is none.
        gains: accuracy minus that of the student alone of the same seed, for each seed of both.
        published: the paper's accuracy; None if the paper has none for this method and data.
        published_gain: the paper's gain over its own student alone; None if it has none.
        step_time: training time per image divided by that of the student alone; None without a
            student alone, or if it was trained on another machine.
    """

    name: str
    runs: tuple[Run, ...]
    is_teacher: bool = False
    training: tuple[Any, ...] = ()
    taught: str = ""
    alone: MethodResult | None = None
    gains: tuple[float, ...] = ()
    published: float | None = None
    published_gain: float | None = None
    step_time: float | None = None

    @property
    def is_alone(self) -> bool:
        """Whether the runs trained students without a teacher."""
        return not self.runs[0].is_distilled and not self.is_teacher

    @property
    def is_distilled(self) -> bool:
        """Whether the runs trained students with a teacher."""
        return self.runs[0].is_distilled and not self.is_teacher

    @property
    def config(self) -> Config:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def loss(self) -> str:
        """The transfer loss; empty if the runs had none."""
        return str(self.config.get("loss", ""))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.summary.seed for run in self.runs)

    @property
    def last(self) -> tuple[float, ...]:
        """The test accuracy of each run after the last epoch."""
        return tuple(run.summary.last_accuracy for run in self.runs)

    @property
    def accuracy_by_seed(self) -> dict[int, float]:
        """The mean of `last` over the runs of each seed: repetitions are not independent."""
        runs: dict[int, list[float]] = {}
        for seed, accuracy in zip(self.seeds, self.last, strict=True):
            runs.setdefault(seed, []).append(accuracy)
        return {seed: statistics.fmean(accuracies) for seed, accuracies in runs.items()}

    @property
    def best(self) -> tuple[float, ...]:
        """The test accuracy of each run after the best epoch."""
        return tuple(run.summary.best_accuracy for run in self.runs)

    @property
    def accuracy(self) -> float:
        """The mean test accuracy of the runs after the last epoch."""
        return statistics.fmean(self.last)

    @property
    def epochs(self) -> int:
        """The number of epochs of a run, all stages together."""
        return self.runs[0].summary.epochs

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean gain; None for fewer than two seeds."""
        return t_interval(self.gains)

    @property
    def seconds_per_image(self) -> float:
        """The mean training time per image of the runs."""
        return statistics.fmean(map(_seconds_per_image, self.runs))


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of a mean paired difference; None for fewer than two pairs.

    Student's t interval of n differences d: ``mean(d) -+ t(0.975, n - 1) std(d) / sqrt(n)``.

    Example:
        >>> [round(bound, 2) for bound in t_interval([2.0, 3.0, 1.0])]
        [-0.48, 4.48]
    """
    count = len(differences)
    if count < 2:
        return None
    from scipy.special import stdtrit

    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    half = float(stdtrit(count - 1, 0.975)) * deviation / count**0.5
    return mean - half, mean + half


def varied_options(runs: Iterable[Run]) -> dict[str, set[str]]:
    """For each loss, the options whose values differ between its runs; rows are named by them.

    Two stages are always among them, since their runs have more epochs than those of other losses.
    """
    by_loss: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        if run.is_distilled:
            by_loss.setdefault(loss_name(run.config), []).append(row_options(run.config))
    varied: dict[str, set[str]] = {}
    for loss, options in by_loss.items():
        values = {name: {one.get(name) for one in options} for name in set().union(*options)}
        varied[loss] = {
            name for name, found in values.items() if len(found) > 1 or TWO_STAGES in found
        }
    return varied


def rows_of(
    named: Sequence[tuple[str, Run]], teachers: Sequence[Run] = (), *, of_teachers: bool = False
) -> list[MethodResult]:
    """Group named runs into rows: those with the same name, loss, training and teaching form one.

    Where rows differ in a training setting, its value is added to their names. What the runs
    learned from is compared as far as it is known, see `Teaching`, and added where rows differ in
    nothing else.

    Args:
        named: the runs, with the names of their rows.
        teachers: the runs that trained the teachers of the others.
        of_teachers: whether `named` are teachers.
    """
    groups: dict[tuple[str, str, tuple[Any, ...]], list[Run]] = {}
    for name, run in named:
        loss = str(run.config.get("loss", "")) if not of_teachers else ""
        groups.setdefault((name, loss, training_values(run)), []).append(run)
    settings = zip(*(training for _, _, training in groups), strict=True)
    differ = [len(set(values)) > 1 for values in settings]
    losses = {name: {loss for other, loss, _ in groups if other == name} for name, _, _ in groups}
    known = teachings([run for _, run in named], teachers)
    rows = []
    for (name, loss, training), group in groups.items():
        differing = [
            TEXTS.get(setting, setting.replace("_", " ") + " {}").format(value)
            for setting, value, differs in zip(TRAINING, training, differ, strict=True)
            if differs and value is not None and str(value) not in name
        ]
        # A loss of the user's own code may have the same title as another loss.
        label = name if len(losses[name]) == 1 else f"{name} ({loss})"
        for taught, runs in by_teaching(group, known):
            told = ", ".join(filter(None, [label, *differing, taught]))
            runs.sort(key=lambda run: run.summary.seed)
            rows.append(MethodResult(told, tuple(runs), of_teachers, training, taught))
    return rows


def with_results(method: MethodResult, rows: Iterable[MethodResult]) -> MethodResult:
    """Fill in a row's gains and step time over the student alone, and the paper's numbers.

    The student alone is looked up among `rows`; preferred is one that saw as many views.
    """
    published = _published(method)
    if not method.is_distilled:
        return replace(method, published=published, step_time=1.0 if method.is_alone else None)
    alike = [row for row in rows if row.is_alone and _are_alike(row, method)]
    if not alike:
        return replace(method, published=published)
    alone = max(alike, key=lambda row: seen_views(row.runs[0]) == seen_views(method.runs[0]))
    published_alone = _published(alone)
    published_gain = None
    if published is not None and published_alone is not None:
        published_gain = published - published_alone
    accuracy_alone = alone.accuracy_by_seed
    gains = tuple(
        accuracy - accuracy_alone[seed]
        for seed, accuracy in method.accuracy_by_seed.items()
        if seed in accuracy_alone
    )
    machines = {
        tuple(run.environment.get(name) for name in MACHINE) for run in method.runs + alone.runs
    }
    ratio = method.seconds_per_image / alone.seconds_per_image if len(machines) == 1 else None
    return replace(
        method,
        alone=with_results(alone, ()),
        gains=gains,
        published=published,
        published_gain=published_gain,
        step_time=ratio,
    )


def _are_alike(alone: MethodResult, method: MethodResult) -> bool:
    """Whether two rows have the same training settings and, as far as recorded, the same images.

    The images are not compared if a run used unlabelled images too.
    """
    runs = [*alone.runs, *method.runs]
    images = {run.environment.get("data_fingerprint") for run in runs} - {None}
    more = any(run.config.get("unlabelled") for run in runs)
    return alone.training == method.training and (len(images) < 2 or more)


def _published(method: MethodResult) -> float | None:
    run = method.runs[0]
    return published_accuracy(run.pair, run.config) if run.is_of_paper else None


def _seconds_per_image(run: Run) -> float:
    """Training time per image in the fastest epoch; epochs of a task-only stage are left out.

    The fastest epoch is taken since other work on the machine can only slow an epoch down.
    """
    epochs = [record for record in run.records if record.stage != "task"] or run.records
    return min(1 / record.images_per_second for record in epochs)
