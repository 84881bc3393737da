"""Which runs stand in one table: those of a pair of networks, on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from svdistill.report.runs import Run

DATA_NAMES: Final = {
    "cifar100": "CIFAR-100",
    "cifar-100": "CIFAR-100",
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}
# Runs that differ in one of these are trained differently, whatever their method.
TRAINING: Final = {
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
# A stride student is taught by the same teacher as the one that pools.
TEACHER_PAIRS: Final = {"VGG_stride": "VGG"}


@dataclass(frozen=True)
class MethodRuns:
    """The runs of one method, which differ in their seeds alone.

    Attributes:
        name: of the row in a table.
        runs: at least one.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def is_teacher(self) -> bool:
        """Whether these are the teachers."""
        return self.runs[0].is_teacher

    @property
    def is_alone(self) -> bool:
        """Whether these are students that nobody taught."""
        return not self.runs[0].is_distilled and not self.is_teacher

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
        wanted = training_of(method.runs[0].config)
        alone = (other for other in self.methods if other.is_alone)
        return next((row for row in alone if training_of(row.runs[0].config) == wanted), None)


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Gather runs into comparisons, each on one pair of networks and one data set.

    Args:
        runs: in any order.

    Returns:
        The comparisons in the order in which their students first come, rows of teachers and of
        students alone first. Teachers whose students are not there make one of their own.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.pair, _data_name(run.config)), []).append(run)
    taught = {key for key, group in groups.items() if any(not run.is_teacher for run in group)}
    comparisons, shown = [], set()
    for pair, data in groups:
        lent = (TEACHER_PAIRS.get(pair, pair), data)
        group = groups[pair, data]
        if (pair, data) in taught and lent[0] != pair:
            group = [run for run in groups.get(lent, []) if run.is_teacher] + group
            shown.add(lent)
        comparisons.append(Comparison(pair, data, _methods(group)))
    return [
        comparison
        for comparison in comparisons
        if comparison.students or (comparison.pair, comparison.data) not in shown
    ]


def dataset_name(config: Mapping[str, Any]) -> str:
    """The data set of a run as people name it.

    Example:
        >>> dataset_name({"data": "parquet:data/cifar100"})
        'CIFAR-100'
    """
    scheme, _, place = str(config["data"]).partition(":")
    name = Path(place or scheme).name
    return DATA_NAMES.get(scheme) or DATA_NAMES.get(name.lower(), name)


def class_choice(config: Mapping[str, Any]) -> str:
    """Which of its classes a run kept.

    Example:
        >>> class_choice({"classes_every": 5}), class_choice({"classes": "50@0"})
        ('one class in 5', '50 classes')
    """
    every, drawn = config.get("classes_every", 1), config.get("classes")
    chosen = [f"one class in {every}"] if every > 1 else []
    chosen += [f"{drawn.partition('@')[0]} classes"] if drawn else []
    return ", ".join(chosen) or "all classes"


def training_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """How a run was trained, whatever its method; equal for runs that can be compared."""
    return tuple(config.get(name) for name in TRAINING)


def _methods(runs: Sequence[Run]) -> tuple[MethodRuns, ...]:
    """The rows; where teachers, or students, were not all trained alike, their names say how."""
    rows: dict[tuple[bool, str, tuple[Any, ...]], list[Run]] = {}
    for run in runs:
        rows.setdefault((run.is_teacher, run.row, training_of(run.config)), []).append(run)
    methods = []
    for (is_teacher, name, training), group in rows.items():
        alike = [other for of_teacher, _, other in rows if of_teacher == is_teacher]
        differing = [
            pattern.format(value)
            for pattern, value, values in zip(
                TRAINING.values(), training, zip(*alike, strict=True), strict=True
            )
            if len(set(values)) > 1 and value is not None
        ]
        group.sort(key=lambda run: run.summary.seed)
        methods.append(MethodRuns(", ".join([name, *differing]), tuple(group)))
    return tuple(sorted(methods, key=lambda row: (not row.is_teacher, not row.is_alone)))


def _data_name(config: Mapping[str, Any]) -> str:
    chosen = class_choice(config)
    return dataset_name(config) + ("" if chosen == "all classes" else f" ({chosen})")
