"""What a comparison is: the runs of a pair of networks on the same images, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svdistill.report.runs import Run


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
        alone = (other for other in self.methods if other.is_alone)
        return next((row for row in alone if row.training == method.training), None)
