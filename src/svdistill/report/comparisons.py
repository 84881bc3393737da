"""Which runs stand in one table: those of a pair of networks, on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from svdistill.report.lineage import teacher_among, teacher_network
from svdistill.report.runs import Run
from svdistill.training.config import OBJECT

# By what a configuration says as a whole or before the colon; by the last part of a path.
SCHEME_NAMES: Final = {
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "Tiny-ImageNet",
    OBJECT: "images given in Python",
}
DATA_NAMES: Final = {"cifar100": "CIFAR-100", "cifar-100": "CIFAR-100", "imagenet": "ImageNet"}
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


@dataclass(frozen=True)
class MethodRuns:
    """The runs of one method, which differ in their seeds alone.

    Attributes:
        name: of the row in a table.
        runs: at least one.
        is_teacher: whether these are the teachers of the others.
    """

    name: str
    runs: tuple[Run, ...]
    is_teacher: bool = False

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
        """Whether any of its networks is one of the seed's."""
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
        wanted = training_of(method.runs[0].config)
        alone = (other for other in self.methods if other.is_alone)
        return next((row for row in alone if training_of(row.runs[0].config) == wanted), None)


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Gather runs into comparisons, each on one pair of networks and one data set.

    Teachers are those that the students name, and the seed's networks that are built to teach.

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


def dataset_name(config: Mapping[str, Any]) -> str:
    """The data set of a run as people name it.

    Example:
        >>> dataset_name({"data": "parquet:data/cifar100"})
        'CIFAR-100'
    """
    scheme, _, place = str(config["data"]).partition(":")
    name = Path(place or scheme).name
    return SCHEME_NAMES.get(scheme) or DATA_NAMES.get(name.lower(), name)


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
    return tuple(config.get(name) or None for name in TRAINING)


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
    taught is called no student, unless the seed does.
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
        groups.setdefault((name, training_of(run.config)), []).append(run)
    rows = []
    for (name, training), group in groups.items():
        differing = [
            pattern.format(value)
            for pattern, value, values in zip(
                TRAINING.values(),
                training,
                zip(*(other for _, other in groups), strict=True),
                strict=True,
            )
            if len(set(values)) > 1 and value is not None
        ]
        group.sort(key=lambda run: run.summary.seed)
        rows.append(MethodRuns(", ".join([name, *differing]), tuple(group), of_teachers))
    return rows
