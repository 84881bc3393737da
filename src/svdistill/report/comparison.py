"""The comparison of runs: which students, alone and distilled, belong together, and their gains."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from svdistill.config import OBJECT
from svdistill.report.protocol import Config, Deviation, deviations, published_accuracy
from svdistill.report.runs import Run, class_choice, dataset_name, teacher_among, teacher_network

# Settings of training, and how a row names them. Rows compare only if all of these are equal.
TRAINING: Final = {
    "weights": "from {}",
    "epochs": "{} epochs",
    "learning_rate": "learning rate {}",
    "schedule": "schedule {}",
    "weight_decay": "weight decay {}",
    "batch_size": "batches of {}",
    "augmentation": "augmentation {}",
    "width": "width {}",
    "train_size": "{} training images",
    "optimizer": "{}",
    "image_size": "{} pixels",
    "max_grad_norm": "gradient norm at most {}",
    "precision": "{}",
    "warmup_epochs": "{} epochs of warm-up",
    "label_smoothing": "label smoothing {}",
    "mix": "{}",
    "mix_alpha": "its alpha {}",
    "ema": "weights averaged with {}",
}

# Speeds compare only if all of these are equal.
MACHINE: Final = ("platform", "processor", "gpu", "threads")

SAME_ACCURACY: Final = 0.5  # points

# A stride student has the same teacher as the one that pools.
TEACHER_PAIRS: Final = {"VGG_stride": "VGG"}


@dataclass(frozen=True)
class MethodResult:
    """One row of a comparison: runs of one method that differ in their seeds alone.

    Accuracies are percentages, differences are in points.

    Attributes:
        name: the row's name in tables and figures.
        runs: at least one, by seed.
        is_teacher: whether these are the teachers of the other rows.
        training: values of `TRAINING`; equal for rows that can be compared.
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
    def difference(self) -> float | None:
        """Accuracy minus the paper's."""
        return None if self.published is None else self.accuracy - self.published

    @property
    def seconds_per_image(self) -> float:
        """Training time for one image, mean over the seeds."""
        return statistics.fmean(map(_seconds_per_image, self.runs))


@dataclass(frozen=True)
class PairComparison:
    """A pair of networks on one data set: teachers, students alone and distilled students.

    Attributes:
        pair: the name of the pair of networks.
        data: the name of the data set.
        methods: in the order in which a table lists them.
    """

    pair: str
    data: str
    methods: tuple[MethodResult, ...]

    @property
    def title(self) -> str:
        """Pair and data, as a heading."""
        return f"{self.pair} on {self.data}"

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return tuple(run for method in self.methods for run in method.runs)

    @property
    def is_of_paper(self) -> bool:
        """Whether any of its networks is one of the paper's."""
        return any(run.is_of_paper for run in self.runs)

    @property
    def teachers(self) -> tuple[MethodResult, ...]:
        """The rows of teachers."""
        return tuple(method for method in self.methods if method.is_teacher)

    @property
    def students(self) -> tuple[MethodResult, ...]:
        """The rows of students, alone or distilled."""
        return tuple(method for method in self.methods if not method.is_teacher)

    @property
    def distilled(self) -> tuple[MethodResult, ...]:
        """The rows of distilled students."""
        return tuple(method for method in self.methods if method.is_distilled)

    @property
    def best(self) -> tuple[MethodResult, ...]:
        """The students with the highest accuracy; several if they are equal."""
        highest = max((method.accuracy for method in self.students), default=0.0)
        return tuple(method for method in self.students if method.accuracy == highest)

    @cached_property
    def deviations(self) -> list[Deviation]:
        """The settings in which its runs differ from the paper's."""
        teachers, students = (
            {method.name: method.config for method in methods}
            for methods in (self.teachers, self.students)
        )
        return deviations(teachers, students)

    def student_alone(self, method: MethodResult) -> MethodResult | None:
        """The student alone with the training of a distilled student; None if there is none."""
        return _student_alone(method, self.methods)


@dataclass(frozen=True)
class Comparison:
    """All that a report compares.

    Attributes:
        runs: each once, in the order in which they were given.
        pairs: a comparison for each pair of networks and data set.
    """

    runs: tuple[Run, ...]
    pairs: tuple[PairComparison, ...]

    @property
    def by_data(self) -> dict[str, list[PairComparison]]:
        """The comparisons on each data set."""
        groups: dict[str, list[PairComparison]] = {}
        for pair in self.pairs:
            groups.setdefault(pair.data, []).append(pair)
        return groups


class Group(NamedTuple):
    """What the runs of a comparison share."""

    pair: str
    data: str
    fingerprint: str


def compare(runs: Iterable[Run]) -> Comparison:
    """Group runs into comparisons, each on one pair of networks and one data set.

    Teachers are the runs that students name as theirs, and the paper's teacher networks.

    Args:
        runs: in any order.

    Returns:
        The comparison. Its pairs are in the order in which their students first appear; each
        begins with its teachers and students alone. Teachers without students have a pair of
        their own.
    """
    runs = tuple({id(run): run for run in runs}.values())
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        groups.setdefault(_group(run), []).append(run)
    teachers = {group: _teachers(group, groups, runs) for group in groups}
    lent = {
        teacher.path
        for group, found in teachers.items()
        if not all(run.is_teacher for run in groups[group])
        for teacher in found
    }
    pairs = (
        PairComparison(group.pair, group.data, _methods(group.pair, teachers[group], members))
        for group, members in groups.items()
        if any(run.is_distilled or run.path not in lent for run in members)
    )
    return Comparison(runs, tuple(pairs))


def _group(run: Run) -> Group:
    """The group of a run; images given in Python are identified by their fingerprint."""
    chosen = class_choice(run.config)
    data = dataset_name(run.config) + ("" if chosen == "all classes" else f" ({chosen})")
    own = run.config["data"] == OBJECT
    return Group(run.pair, data, str(run.environment.get("data_fingerprint")) if own else "")


def _teachers(
    group: Group, groups: Mapping[Group, Sequence[Run]], runs: Sequence[Run]
) -> list[Run]:
    """The teachers that a group's students name, and its family's, each once.

    A teacher whose accuracy on the students' images differs from its own run's is left out.
    """
    family = group._replace(pair=TEACHER_PAIRS.get(group.pair, group.pair))
    found = [run for run in groups.get(family, []) if run.is_teacher]
    for run in groups[group]:
        teacher = teacher_among(run, runs) if run.is_distilled else None
        measured = run.summary.teacher_accuracy
        # Another machine may classify a few images differently.
        if teacher is not None and (
            measured is None or abs(measured - teacher.summary.last_accuracy) < SAME_ACCURACY
        ):
            found.append(teacher)
    return list({run.path: run for run in found}.values())


def _methods(
    pair: str, teachers: Sequence[Run], members: Sequence[Run]
) -> tuple[MethodResult, ...]:
    """The rows of a comparison: teachers, students alone, distilled students.

    If there are several teacher networks, names contain them. A network that has no distilled
    student beside it is called a student only if it is one of the paper's.
    """
    students = [run for run in members if not run.is_teacher]
    networks = {run.path: _teacher_name(run, teachers) for run in students if run.is_distilled}
    several = len({*networks.values(), *(run.summary.network for run in teachers)} - {""}) > 1

    def named(name: str, network: str) -> str:
        return f"{name}, {network}" if several and network else name

    def row_of(run: Run) -> str:
        return run.row if networks or run.is_of_paper else "trained alone"

    rows = [
        *_rows(
            [(named("teacher", run.summary.network), run) for run in teachers], of_teachers=True
        ),
        *_rows([(named(row_of(run), networks.get(run.path, "")), run) for run in students]),
    ]
    rows.sort(key=lambda row: (not row.is_teacher, not row.is_alone))
    return tuple(_with_results(pair, row, _student_alone(row, rows)) for row in rows)


def _teacher_name(run: Run, teachers: Sequence[Run]) -> str:
    """The name of a run's teacher network, if it is known."""
    teacher = teacher_among(run, teachers)
    return teacher_network(run) if teacher is None else teacher.summary.network


def _rows(named: Sequence[tuple[str, Run]], *, of_teachers: bool = False) -> list[MethodResult]:
    """A row for the runs of each name, loss and training; names say what tells them apart."""
    groups: dict[tuple[str, str, tuple[Any, ...]], list[Run]] = {}
    for name, run in named:
        # The size of the images as measured, which the configuration may leave open.
        values = {**run.config, "image_size": run.summary.image_size}
        training = tuple(values.get(setting) or None for setting in TRAINING)
        loss = str(run.config.get("loss", "")) if not of_teachers else ""
        groups.setdefault((name, loss, training), []).append(run)
    settings = zip(*(training for _, _, training in groups), strict=True)
    differ = [len(set(values)) > 1 for values in settings]
    losses = {name: {loss for other, loss, _ in groups if other == name} for name, _, _ in groups}
    rows = []
    for (name, loss, training), group in groups.items():
        differing = [
            pattern.format(value)
            for pattern, value, differs in zip(TRAINING.values(), training, differ, strict=True)
            if differs and value is not None
        ]
        # Losses of the user's own code may share a title with another loss.
        label = name if len(losses[name]) == 1 else f"{name} ({loss})"
        group.sort(key=lambda run: run.summary.seed)
        rows.append(
            MethodResult(", ".join([label, *differing]), tuple(group), of_teachers, training)
        )
    return rows


def _student_alone(method: MethodResult, rows: Iterable[MethodResult]) -> MethodResult | None:
    if not method.is_distilled:
        return None
    return next((row for row in rows if row.is_alone and row.training == method.training), None)


def _with_results(pair: str, method: MethodResult, alone: MethodResult | None) -> MethodResult:
    """A row with what the student alone and the paper say about it."""
    published = _published(pair, method)
    if alone is None:
        return replace(method, published=published, step_time=1.0 if method.is_alone else None)
    published_alone = _published(pair, alone)
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
        gains=gains,
        published=published,
        published_gain=published_gain,
        step_time=ratio,
    )


def _published(pair: str, method: MethodResult) -> float | None:
    run = method.runs[0]
    return published_accuracy(pair, run.config) if run.is_of_paper else None


def _seconds_per_image(run: Run) -> float:
    """Training time for one image in the fastest epoch, of those with a transfer if there are any.

    Other work on the machine makes an epoch slower and never faster.
    """
    epochs = [record for record in run.records if record.stage != "task"] or run.records
    return min(1 / record.images_per_second for record in epochs)
