"""Which runs stand in one table, and which of them is the others' teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from svdistill.report.comparisons import Comparison, MethodRuns
from svdistill.report.data_names import class_choice, dataset_name
from svdistill.report.lineage import teacher_among, teacher_network
from svdistill.report.runs import Run
from svdistill.training.config import OBJECT

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
