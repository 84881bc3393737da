"""The rows of a comparison: what a row is, how rows are named, and what they gain."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final

from svdistill.config import TrainConfig
from svdistill.report.protocol import published_accuracy
from svdistill.report.runs import Config, Run, loss_name, row_options

# Settings that do not change what is learned, or that tell runs of a row apart, or that name data.
UNLIKE: Final = (
    *("output", "seed", "resume", "device", "capture", "deterministic", "checkpoint_minutes"),
    *("memory_limit_gb", "workers", "data", "classes_every", "classes", "unlabelled"),
    # A knowledge store determines the views of its students.
    *("views", "views_seed"),
)

# All other settings of training. Rows compare only if all of these are equal.
TRAINING: Final = {
    field.name: None if field.default is MISSING else field.default
    for field in fields(TrainConfig)
    if field.name not in UNLIKE
}

# How a row names a setting; others by their option and value.
TEXTS: Final = {
    "network": "{}",
    "weights": "from {}",
    "epochs": "{} epochs",
    "batch_size": "batches of {}",
    "train_size": "{} training images",
    "dev_fraction": "{} held out",
    "optimizer": "{}",
    "image_size": "{} pixels",
    "max_grad_norm": "gradient norm at most {}",
    "precision": "{}",
    "warmup_epochs": "{} epochs of warm-up",
    "mix": "{}",
    "mix_alpha": "its alpha {}",
    "ema": "weights averaged with {}",
}

# Speeds compare only if all of these are equal.
MACHINE: Final = ("platform", "processor", "gpu", "threads")


@dataclass(frozen=True)
class MethodResult:
    """One row of a comparison: runs of one method that differ in their seeds alone.

    Accuracies are percentages, gains are in points.

    Attributes:
        name: the row's name in tables and figures.
        runs: at least one, by seed.
        is_teacher: whether these are the teachers of the other rows.
        training: values of `TRAINING`; equal for rows that can be compared.
        alone: the student alone with the same training and data; None if there is none.
        gains: over the student alone of the same seed, one for each seed that both have.
        published: the paper's accuracy; None if the paper has none for this method and data.
        published_gain: the paper's gain over its own student alone; None if it has none.
        step_time: time for an image in training over the student alone's; None without a student
            alone, or if that was trained on another machine.
    """

    name: str
    runs: tuple[Run, ...]
    is_teacher: bool = False
    training: tuple[Any, ...] = ()
    alone: MethodResult | None = None
    gains: tuple[float, ...] = ()
    published: float | None = None
    published_gain: float | None = None
    step_time: float | None = None

    @property
    def is_alone(self) -> bool:
        """Whether these are students that were trained without a teacher."""
        return not self.runs[0].is_distilled and not self.is_teacher

    @property
    def is_distilled(self) -> bool:
        """Whether these are students that were trained with a teacher."""
        return self.runs[0].is_distilled and not self.is_teacher

    @property
    def config(self) -> Config:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def loss(self) -> str:
        """The transfer loss; empty without one."""
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
    def best(self) -> tuple[float, ...]:
        """The test accuracy of each run after the best epoch."""
        return tuple(run.summary.best_accuracy for run in self.runs)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, after the last epoch."""
        return statistics.fmean(self.last)

    @property
    def epochs(self) -> int:
        """Number of epochs, over all stages."""
        return self.runs[0].summary.epochs

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean gain; None for fewer than two seeds."""
        return t_interval(self.gains)

    @property
    def seconds_per_image(self) -> float:
        """Training time for one image, mean over the seeds."""
        return statistics.fmean(map(_seconds_per_image, self.runs))


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean difference of pairs; None of fewer than two.

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
    """The options, by loss, in which distilled runs differ: their rows are named by these."""
    by_loss: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        if run.is_distilled:
            by_loss.setdefault(loss_name(run.config), []).append(row_options(run.config))
    return {
        loss: {
            name for name in set().union(*options) if len({one.get(name) for one in options}) > 1
        }
        for loss, options in by_loss.items()
    }


def rows_of(named: Sequence[tuple[str, Run]], *, of_teachers: bool = False) -> list[MethodResult]:
    """A row for the runs of each name, loss and training; names say what tells them apart."""
    groups: dict[tuple[str, str, tuple[Any, ...]], list[Run]] = {}
    for name, run in named:
        # The size of the images as measured, which the configuration may leave open.
        measured = {"network": run.summary.network, "image_size": run.summary.image_size}
        values = {**TRAINING, **run.config, **measured}
        training = tuple(values[setting] or None for setting in TRAINING)
        loss = str(run.config.get("loss", "")) if not of_teachers else ""
        groups.setdefault((name, loss, training), []).append(run)
    settings = zip(*(training for _, _, training in groups), strict=True)
    differ = [len(set(values)) > 1 for values in settings]
    losses = {name: {loss for other, loss, _ in groups if other == name} for name, _, _ in groups}
    rows = []
    for (name, loss, training), group in groups.items():
        differing = [
            TEXTS.get(setting, setting.replace("_", " ") + " {}").format(value)
            for setting, value, differs in zip(TRAINING, training, differ, strict=True)
            if differs and value is not None and str(value) not in name
        ]
        # Losses of the user's own code may share a title with another loss.
        label = name if len(losses[name]) == 1 else f"{name} ({loss})"
        group.sort(key=lambda run: run.summary.seed)
        rows.append(
            MethodResult(", ".join([label, *differing]), tuple(group), of_teachers, training)
        )
    return rows


def with_results(method: MethodResult, rows: Iterable[MethodResult]) -> MethodResult:
    """The row with its gain over the student alone, and the paper's accuracy and gain."""
    published = _published(method)
    if not method.is_distilled:
        return replace(method, published=published, step_time=1.0 if method.is_alone else None)
    alone = next((row for row in rows if row.is_alone and _are_alike(row, method)), None)
    if alone is None:
        return replace(method, published=published)
    published_alone = _published(alone)
    published_gain = None
    if published is not None and published_alone is not None:
        published_gain = published - published_alone
    accuracy_alone = dict(zip(alone.seeds, alone.last, strict=True))
    gains = tuple(
        accuracy - accuracy_alone[seed]
        for seed, accuracy in zip(method.seeds, method.last, strict=True)
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
    """Whether training and labelled images are the same, as far as the runs recorded them."""
    runs = [*alone.runs, *method.runs]
    images = {run.environment.get("data_fingerprint") for run in runs} - {None}
    more = any(run.config.get("unlabelled") for run in runs)
    return alone.training == method.training and (len(images) < 2 or more)


def _published(method: MethodResult) -> float | None:
    run = method.runs[0]
    return published_accuracy(run.pair, run.config) if run.is_of_paper else None


def _seconds_per_image(run: Run) -> float:
    """Training time for one image in the fastest epoch, of those with a transfer if there are any.

    Other work on the machine makes an epoch slower and never faster.
    """
    epochs = [record for record in run.records if record.stage != "task"] or run.records
    return min(1 / record.images_per_second for record in epochs)
