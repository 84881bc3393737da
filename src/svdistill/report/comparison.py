"""Compare runs: group students, alone and distilled, with their teachers, and find their gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

from svdistill.report.data_names import data_names
from svdistill.report.methods import MethodResult, rows_of, varied_options, with_results
from svdistill.report.protocol import Deviation, deviations
from svdistill.report.runs import (
    Run,
    loss_name,
    row_options,
    teacher_among,
    teacher_network,
)
from svdistill.report.settings import same_accuracy

# The VGG student with strides has the same teacher as the one with pooling.
TEACHER_PAIRS: Final = {"VGG_stride": "VGG"}


@dataclass(frozen=True)
class PairComparison:
    """The comparison of runs with one pair of networks on one data set.

    Attributes:
        pair: the name of the pair of networks, teacher and student.
        data: the name of the data set.
        methods: the rows, in the order of the tables: teachers, students trained alone, distilled
            students.
    """

    pair: str
    data: str
    methods: tuple[MethodResult, ...]

    @property
    def title(self) -> str:
        """The heading of the comparison: its pair of networks and its data set."""
        return f"{self.pair} on {self.data}"

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all rows."""
        return tuple(run for method in self.methods for run in method.runs)

    @property
    def is_of_paper(self) -> bool:
        """Whether any of the runs trained one of the paper's networks."""
        return any(run.is_of_paper for run in self.runs)

    @property
    def teachers(self) -> tuple[MethodResult, ...]:
        """The rows of teachers."""
        return tuple(method for method in self.methods if method.is_teacher)

    @property
    def students(self) -> tuple[MethodResult, ...]:
        """The rows of students, trained alone or distilled."""
        return tuple(method for method in self.methods if not method.is_teacher)

    @property
    def distilled(self) -> tuple[MethodResult, ...]:
        """The rows of distilled students."""
        return tuple(method for method in self.methods if method.is_distilled)

    def teacher_of(self, method: MethodResult) -> MethodResult | None:
        """The row of a method's own teacher; None if it is unknown, or has no row.

        A comparison's only teacher is everyone's, unless the run measured another accuracy, or had
        a teacher of other classes.
        """
        if method.is_teacher:
            return None
        run = method.runs[0]
        own = teacher_among(run, [one for row in self.teachers for one in row.runs])
        if own is not None:
            return next(row for row in self.teachers if own in row.runs)
        if run.has_teacher_of_others:
            return None
        measured = run.summary.teacher_accuracy
        alike = len(self.teachers) == 1 and any(
            same_accuracy(measured, accuracy) for accuracy in self.teachers[0].last
        )
        return self.teachers[0] if alike else None

    @cached_property
    def deviations(self) -> list[Deviation]:
        """The settings in which the runs differ from the paper's protocol."""
        teachers, students = (
            {method.name: method.config for method in methods}
            for methods in (self.teachers, self.students)
        )
        return deviations(teachers, students)

    @property
    def leader(self) -> MethodResult | None:
        """The distilled row that the headline is about; None if nothing was distilled.

        Preferred are, in this order, rows trained for as many epochs as their student alone, rows
        with a student alone, and rows with two seeds or more; of these, the most accurate one.
        """

        def order(method: MethodResult) -> tuple[bool, bool, bool, float]:
            alone, seeds = method.alone, len(method.gains)
            as_long = alone is not None and alone.epochs == method.epochs
            return seeds > 0 and as_long, seeds > 0, seeds > 1, method.accuracy

        return max(self.distilled, key=order, default=None)


@dataclass(frozen=True)
class Comparison:
    """Everything that a report compares.

    Attributes:
        runs: all runs, each once, in the order in which they were given.
        pairs: a comparison for each combination of a pair of networks and a data set.
    """

    runs: tuple[Run, ...]
    pairs: tuple[PairComparison, ...]


class Group(NamedTuple):
    """The properties that all runs of one comparison share; used as a dictionary key."""

    pair: str
    data: str


def compare(runs: Iterable[Run]) -> Comparison:
    """Group runs into comparisons, each on one pair of networks and one data set.

    Teachers are the runs that students name as their teacher, and the runs that trained one of the
    paper's teacher networks.

    Args:
        runs: finished runs in any order.

    Returns:
        The comparison. Its pairs are in the order in which their students first appear. The rows of
        each pair begin with teachers and students alone. Teachers without students form a pair of
        their own.
    """
    runs = tuple({id(run): run for run in runs}.values())
    data = data_names(runs)
    group_of = {run.path: Group(run.pair, data[run.path]) for run in runs}
    groups: dict[Group, list[Run]] = {}
    varied = varied_options(runs)
    for run in runs:
        groups.setdefault(group_of[run.path], []).append(run)
    teachers = {group: _teachers(group, groups, runs, data) for group in groups}
    lent = {
        teacher.path
        for group, found in teachers.items()
        if not all(run.is_teacher for run in groups[group])
        for teacher in found
    }
    pairs = (
        PairComparison(group.pair, group.data, _methods(teachers[group], members, varied))
        for group, members in groups.items()
        if any(run.is_distilled or run.path not in lent for run in members)
    )
    return Comparison(runs, tuple(pairs))


def _teachers(
    group: Group,
    groups: Mapping[Group, Sequence[Run]],
    runs: Sequence[Run],
    data: Mapping[Path, str],
) -> list[Run]:
    """The teachers that a group's students name, and the paper's teachers of its pair, each once.

    A named teacher is left out if it learned other data: if its accuracy as measured on the
    students' images differs from its own run's or, where it was not measured, by the data's name.
    """
    family = group._replace(pair=TEACHER_PAIRS.get(group.pair, group.pair))
    found = [run for run in groups.get(family, []) if run.is_teacher]
    for run in groups[group]:
        teacher = teacher_among(run, runs) if run.is_distilled else None
        measured = run.summary.teacher_accuracy
        if teacher is None:
            continue
        if measured is None:
            same = data[teacher.path] == group.data
        else:
            same = same_accuracy(measured, teacher.summary.last_accuracy)
        if same:
            found.append(teacher)
    return list({run.path: run for run in found}.values())


def _methods(
    teachers: Sequence[Run], members: Sequence[Run], varied: Mapping[str, set[str]]
) -> tuple[MethodResult, ...]:
    """The rows of a comparison: teachers, students alone, distilled students.

    If there are several teacher networks, the row names contain the teacher's network. A run
    without a teacher is called a student only if there are distilled runs or it is of the paper.
    """
    taught = {run.summary.network for run in members if run.is_distilled}
    students = [run for run in members if not run.is_teacher or run.summary.network in taught]
    networks = {run.path: _teacher_name(run, teachers) for run in students if run.is_distilled}
    several = len({*networks.values(), *(run.summary.network for run in teachers)} - {""}) > 1

    def named(name: str, network: str) -> str:
        return f"{name}, {network}" if several and network else name

    def row_of(run: Run) -> str:
        if not run.is_distilled:
            return "student alone" if networks or run.is_of_paper else "trained alone"
        loss, options = loss_name(run.config), row_options(run.config)
        return ", ".join([loss, *(text for name, text in options.items() if name in varied[loss])])

    rows = [
        *rows_of(
            [(named("teacher", run.summary.network), run) for run in teachers], of_teachers=True
        ),
        *rows_of(
            [(named(row_of(run), networks.get(run.path, "")), run) for run in students], teachers
        ),
    ]
    rows.sort(key=lambda row: (not row.is_teacher, not row.is_alone))
    return tuple(with_results(row, rows) for row in rows)


def _teacher_name(run: Run, teachers: Sequence[Run]) -> str:
    """The name of a run's teacher network; empty if it is unknown."""
    teacher = teacher_among(run, teachers)
    return teacher_network(run) if teacher is None else teacher.summary.network
