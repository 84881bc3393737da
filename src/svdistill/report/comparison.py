"""Runs that answer one question, put together by method."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from svdistill.config import OBJECT
from svdistill.report.published import published_accuracy, published_large_data
from svdistill.report.runs import Run, class_choice, dataset_name, teacher_among, teacher_network

# Runs that differ in one of these are trained differently, whatever their method.
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
}

SAME_ACCURACY: Final = 0.5  # points

# A stride student is taught by the same teacher as the one that pools.
TEACHER_PAIRS: Final = {"VGG_stride": "VGG"}


class Group(NamedTuple):
    """What a comparison is of."""

    pair: str
    data: str
    fingerprint: str


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Gather runs into comparisons, each on one pair of networks and one data set.

    Teachers are those that the students name, and the paper's networks that are built to teach.

    Args:
        runs: in any order.

    Returns:
        The comparisons in the order in which their students first come, rows of teachers and of
        students alone first. Teachers whose students are not there make one of their own.
    """
    runs = list({id(run): run for run in runs}.values())
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
    return [
        Comparison(group.pair, group.data, _methods(teachers[group], members))
        for group, members in groups.items()
        if any(run.is_distilled or run.path not in lent for run in members)
    ]


def _group(run: Run) -> Group:
    """Of images that were given in Python their fingerprint says whether they are the same."""
    chosen = class_choice(run.config)
    data = dataset_name(run.config) + ("" if chosen == "all classes" else f" ({chosen})")
    own = run.config["data"] == OBJECT
    return Group(run.pair, data, str(run.environment.get("data_fingerprint")) if own else "")


def _teachers(
    group: Group, groups: Mapping[Group, Sequence[Run]], runs: Sequence[Run]
) -> list[Run]:
    """The teachers of a group: those that its students name, and its family's; each once.

    One that is not as accurate on the students' images as on its own makes no row beside them.
    """
    family = group._replace(pair=TEACHER_PAIRS.get(group.pair, group.pair))
    found = [run for run in groups.get(family, []) if run.is_teacher]
    for run in groups[group]:
        teacher = teacher_among(run, runs) if run.is_distilled else None
        if teacher is not None and _is_at_home(teacher, run.summary.teacher_accuracy):
            found.append(teacher)
    return list({run.path: run for run in found}.values())


def _is_at_home(teacher: Run, accuracy: float | None) -> bool:
    """Whether a student measured what its teacher's run did, on images of the same kind and size.

    Another machine may decide a few images otherwise.
    """
    return accuracy is None or abs(accuracy - teacher.summary.last_accuracy) < SAME_ACCURACY


def _methods(teachers: Sequence[Run], members: Sequence[Run]) -> tuple[MethodRuns, ...]:
    """The rows of a comparison: teachers, students alone, taught students.

    Where there are several teachers' networks, names say which. A network beside which nothing was
    taught is called no student, unless the paper does.
    """
    students = [run for run in members if not run.is_teacher]
    networks = {run.path: _taught_by(run, teachers) for run in students if run.is_distilled}
    several = len({*networks.values(), *(run.summary.network for run in teachers)} - {""}) > 1

    def named(name: str, network: str) -> str:
        return f"{name}, {network}" if several and network else name

    def row_of(run: Run) -> str:
        return run.row if networks or run.is_of_seed else "trained alone"

    rows = [
        *_rows(
            [(named("teacher", run.summary.network), run) for run in teachers], of_teachers=True
        ),
        *_rows([(named(row_of(run), networks.get(run.path, "")), run) for run in students]),
    ]
    return tuple(sorted(rows, key=lambda row: (not row.is_teacher, not row.is_alone)))


def _taught_by(run: Run, teachers: Sequence[Run]) -> str:
    """The name of its teacher's network, if it can be known."""
    teacher = teacher_among(run, teachers)
    return teacher_network(run) if teacher is None else teacher.summary.network


def _rows(named: Sequence[tuple[str, Run]], *, of_teachers: bool = False) -> list[MethodRuns]:
    """Runs of one name, trained alike; where not all were trained alike, names say how."""
    groups: dict[tuple[str, tuple[Any, ...]], list[Run]] = {}
    for name, run in named:
        # What came of it says more than what was asked for.
        values = {**run.config, "image_size": run.summary.image_size}
        training = tuple(values.get(setting) or None for setting in TRAINING)
        groups.setdefault((name, training), []).append(run)
    settings = zip(*(training for _, training in groups), strict=True)
    differ = [len(set(values)) > 1 for values in settings]
    rows = []
    for (name, training), group in groups.items():
        differing = [
            pattern.format(value)
            for pattern, value, differs in zip(TRAINING.values(), training, differ, strict=True)
            if differs and value is not None
        ]
        group.sort(key=lambda run: run.summary.seed)
        label = ", ".join([name, *differing])
        rows.append(MethodRuns(label, tuple(group), of_teachers, training))
    return rows


@dataclass(frozen=True)
class MethodRuns:
    """The runs of one method, which differ in their seeds alone.

    Attributes:
        name: of the row in a table.
        runs: at least one.
        is_teacher: whether these are the teachers of the others.
        training: how they were trained, whatever their method; equal for rows that can be compared.
    """

    name: str
    runs: tuple[Run, ...]
    is_teacher: bool = False
    training: tuple[Any, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether these are students that nobody taught."""
        return not self.runs[0].is_distilled and not self.is_teacher

    @property
    def is_taught(self) -> bool:
        """Whether these are students that a teacher taught."""
        return self.runs[0].is_distilled and not self.is_teacher

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each run."""
        return tuple(run.summary.seed for run in self.runs)

    @property
    def last(self) -> tuple[float, ...]:
        """Test accuracies in percent after the last epoch, one for each run."""
        return tuple(run.summary.last_accuracy for run in self.runs)

    @property
    def best(self) -> tuple[float, ...]:
        """Test accuracies in percent after the best epoch, likewise."""
        return tuple(run.summary.best_accuracy for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """A pair of networks on one data set: teachers, students alone, and taught students.

    Attributes:
        pair: as people say it.
        data: likewise.
        methods: in the order in which a table lists them.
    """

    pair: str
    data: str
    methods: tuple[MethodRuns, ...]

    @property
    def title(self) -> str:
        """Both, as a heading."""
        return f"{self.pair} on {self.data}"

    @property
    def is_of_seed(self) -> bool:
        """Whether any of its networks is one of the paper's."""
        return any(run.is_of_seed for run in self.runs)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return tuple(run for method in self.methods for run in method.runs)

    @property
    def teachers(self) -> tuple[MethodRuns, ...]:
        """The rows of teachers."""
        return tuple(method for method in self.methods if method.is_teacher)

    @property
    def students(self) -> tuple[MethodRuns, ...]:
        """The rows of students, alone or taught."""
        return tuple(method for method in self.methods if not method.is_teacher)

    def alone(self, method: MethodRuns) -> MethodRuns | None:
        """The student alone that was trained as this taught student was, if there is one."""
        if method.is_alone or method.is_teacher:
            return None
        alone = (other for other in self.methods if other.is_alone)
        return next((row for row in alone if row.training == method.training), None)


# Speeds compare only where all of these are equal.
MACHINE: Final = ("platform", "processor", "gpu", "threads")


@dataclass(frozen=True)
class MethodResult:
    """One row of an accuracy table. Accuracies are percentages, differences are in points.

    Attributes:
        method: the runs.
        gains: over the student alone of the same seed, one for each seed that both have.
        published: the paper's accuracy; None where it has none for this method on these data.
        published_gain: the paper's gain over its own student alone, likewise.
        step_time: seconds for an image in training over the student alone's; None where there is
            no student alone, or it was trained on another machine.
    """

    method: MethodRuns
    gains: tuple[float, ...]
    published: float | None
    published_gain: float | None
    step_time: float | None

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, after the last epoch."""
        return statistics.fmean(self.method.last)

    @property
    def difference(self) -> float | None:
        """From the paper's accuracy."""
        return None if self.published is None else self.accuracy - self.published


def method_results(comparison: Comparison) -> list[MethodResult]:
    """The rows of a comparison, in its order."""
    return [_result(comparison, method) for method in comparison.methods]


def best_results(results: Iterable[MethodResult]) -> list[MethodResult]:
    """The students with the highest mean after the last epoch; several where they are equal."""
    students = [result for result in results if not result.method.is_teacher]
    highest = max((result.accuracy for result in students), default=0.0)
    return [result for result in students if result.accuracy == highest]


def seconds_per_image(run: Run) -> float:
    """Training time for one image in the fastest of the epochs that have a transfer, if any do.

    Whatever else a machine does makes the others slower, and none faster.
    """
    epochs = [record for record in run.records if record.stage != "task"] or run.records
    return min(1 / record.images_per_second for record in epochs)


def _result(comparison: Comparison, method: MethodRuns) -> MethodResult:
    alone, published = comparison.alone(method), _published(comparison, method)
    if alone is None:
        return MethodResult(method, (), published, None, 1.0 if method.is_alone else None)
    published_alone = _published(comparison, alone)
    published_gain = None
    if published is not None and published_alone is not None:
        published_gain = published - published_alone
    accuracy_alone = dict(zip(alone.seeds, alone.last, strict=True))
    gains = tuple(
        accuracy - accuracy_alone[seed]
        for seed, accuracy in zip(method.seeds, method.last, strict=True)
        if seed in accuracy_alone
    )
    return MethodResult(method, gains, published, published_gain, _step_time(method, alone))


def _published(comparison: Comparison, method: MethodRuns) -> float | None:
    run = method.runs[0]
    if not run.is_of_seed:
        return None
    data = dataset_name(run.config)
    if data == "CIFAR-100":
        return published_accuracy(comparison.pair, run.row)
    drawn = class_choice(run.config) == "50 classes"
    return published_large_data("ImageNet-50" if data == "ImageNet" and drawn else data, run.row)


def _step_time(method: MethodRuns, alone: MethodRuns) -> float | None:
    machines = {
        tuple(run.environment.get(name) for name in MACHINE) for run in method.runs + alone.runs
    }
    if len(machines) > 1:
        return None
    taught, untaught = (
        statistics.fmean(map(seconds_per_image, rows.runs)) for rows in (method, alone)
    )
    return taught / untaught
