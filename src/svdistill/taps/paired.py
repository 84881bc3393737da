"""What was paired: a table to read, to change, and to hand to the Distiller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from svdistill.errors import ArgumentError, nearest
from svdistill.taps.layouts import CHANNELS_LAST, module_path
from svdistill.taps.recording import TapPairs
from svdistill.taps.stages import Stage

BY_USER = "chosen by you"
WIDTH = 100  # columns of a terminal


@dataclass(frozen=True)
class PairedTap:
    """A stage of the teacher, the student's that learns from it, and why these two."""

    teacher: Stage
    student: Stage
    why: str

    @property
    def needs_adapter(self) -> bool:
        """Whether a loss that compares channels needs a projection of the student's."""
        return self.teacher.channels != self.student.channels


@dataclass(frozen=True)
class PairedTaps:
    """Stages of a teacher paired with a student's, from front to back; print it to see them.

    Attributes:
        rows: the pairs.
        teacher_modules: every module of the teacher that can be tapped, with its shape.
        student_modules: every one of the student.
    """

    rows: tuple[PairedTap, ...]
    teacher_modules: tuple[Stage, ...] = field(repr=False)
    student_modules: tuple[Stage, ...] = field(repr=False)

    def __post_init__(self) -> None:
        for network in ("teacher", "student"):
            paths = [module_path(getattr(row, network).path) for row in self.rows]
            if len(set(paths)) < len(paths):
                raise ArgumentError(
                    network, expected="each module once", got=paths, remedy="drop a row first"
                )

    @property
    def pairs(self) -> TapPairs:
        """The paths alone."""
        return TapPairs(
            tuple(row.teacher.path for row in self.rows),
            tuple(row.student.path for row in self.rows),
        )

    def replace(
        self, row: int, *, teacher: str | None = None, student: str | None = None
    ) -> PairedTaps:
        """The same pairs with other modules in one row.

        Args:
            row: its number in the table, from 0.
            teacher: path of the teacher's module; None leaves it.
            student: path of the student's module; None leaves it.

        Raises:
            ArgumentError: no such row; a path that cannot be tapped, or is in another row.
        """
        old = self._row(row)
        new = PairedTap(
            old.teacher if teacher is None else _find("teacher", teacher, self.teacher_modules),
            old.student if student is None else _find("student", student, self.student_modules),
            BY_USER,
        )
        return replace(self, rows=(*self.rows[:row], new, *self.rows[row + 1 :]))

    def drop(self, row: int) -> PairedTaps:
        """The same pairs without one row, by its number in the table, from 0.

        Raises:
            ArgumentError: no such row.
        """
        self._row(row)
        return replace(self, rows=(*self.rows[:row], *self.rows[row + 1 :]))

    def _row(self, row: int) -> PairedTap:
        if row not in range(len(self.rows)):
            raise ArgumentError(
                "row",
                expected=f"the number of a row, 0 to {len(self.rows) - 1}",
                got=row,
                remedy="print the pairs to see them",
            )
        return self.rows[row]

    def __str__(self) -> str:
        """The table; where paths are long, with teacher and student one below the other."""
        wide = [("", "teacher", "shape", "student", "shape", "adapter", "why")]
        high = [("", "teacher, and below it student", "shape", "adapter", "why")]
        for number, row in enumerate(self.rows):
            channels = f"{row.student.channels} -> {row.teacher.channels}"
            adapter = channels if row.needs_adapter else "no"
            teacher = (str(number), row.teacher.path, _shape(row.teacher))
            student = (row.student.path, _shape(row.student))
            wide.append((*teacher, *student, adapter, row.why))
            high += [(*teacher, "", row.why), ("", *student, adapter, "")]
        table = _aligned(wide)
        return table if max(map(len, table.splitlines())) <= WIDTH else _aligned(high)


def _find(network: str, path: str, modules: Sequence[Stage]) -> Stage:
    shapes = {stage.path: stage.shape for stage in modules}
    shape = shapes.get(module_path(path))
    if shape is None:
        raise ArgumentError(
            network,
            expected="the path of a module that runs once and puts out one tensor that lasts",
            got=repr(path),
            remedy=nearest(path, shapes),
        )
    if path.endswith(":ncl") and len(shape) == 2:
        return Stage(path, (shape[0], 1, shape[1]))
    if not path.endswith(CHANNELS_LAST):
        return Stage(path, shape)
    if len(shape) != 3:
        raise ArgumentError(
            network,
            expected=f"a module that puts out [B, H, W, D] before {CHANNELS_LAST!r}",
            got=f"{path!r}, of shape {list(shape)} without the batch",
            remedy=f"leave {CHANNELS_LAST!r} out",
        )
    return Stage(path, (shape[2], *shape[:2]))


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
