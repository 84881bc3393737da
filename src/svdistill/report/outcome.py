"""The outcome of one run: teacher, student before and student after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from svdistill.common import Cell, Table, columns, millions, millions_cell, number_cell
from svdistill.report.runs import Run, teacher_network
from svdistill.training import BeforeAfter, read_before_after

Z_95: Final = 1.959963984540054


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy, in percent.

    With p the share of correct answers among n, and z the quantile of the normal distribution::

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It covers the same network's accuracy on other images of the same kind, not the accuracy of
    another training.

    Args:
        percent: the accuracy, 0 to 100.
        images: their number, 1 or more.

    Example:
        >>> [round(bound, 1) for bound in wilson_interval(90.0, 100)]
        [82.6, 94.5]

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927.
    """
    p = percent / 100
    centre = p + Z_95**2 / (2 * images)
    half = Z_95 * math.sqrt(p * (1 - p) / images + Z_95**2 / (4 * images**2))
    scale = 100 / (1 + Z_95**2 / images)
    return scale * (centre - half), scale * (centre + half)


def before_after_table(measured: BeforeAfter, title: str = "", teacher: str = "") -> Table:
    """Accuracy and cost of teacher, student before and student after.

    Args:
        measured: as a run measured them.
        title: of the table.
        teacher: the name of the teacher's network.
    """
    rows = []
    for name, figures in measured.rows().items():
        rows.append(
            (
                Cell(f"teacher {teacher}".strip() if name == "teacher" else name),
                _accuracy_cell(figures.accuracy, measured.test_images),
                millions_cell(figures.parameters, digits=3),
                millions_cell(figures.flops),
                number_cell(figures.milliseconds, "{:.1f} ms"),
                number_cell(figures.bytes / 1e6, "{:.1f} MB"),
            )
        )
    headings = ("accuracy % (95 %)", "parameters", "FLOPs", "latency", "file")
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    return Table(
        title=title,
        columns=columns("network", *headings),
        rows=tuple(rows),
        caption=f"Accuracy on {measured.test_images:,} test images, with its 95 % interval; "
        f"latency of one image on the CPU, {threads}, the median",
        best=(len(rows) - 1,),
        sortable=False,
    )


def _accuracy_cell(accuracy: float | None, images: int) -> Cell:
    if accuracy is None:
        return Cell("other classes")
    low, high = wilson_interval(accuracy, images)
    return Cell(f"{accuracy:.2f} ({low:.1f}-{high:.1f})", accuracy)


# Of the tiles: the measured field, its text, and the word for a smaller value.
COSTS: Final[dict[str, tuple[str, Callable[[Any], str], str]]] = {
    "parameters": ("parameters", lambda count: millions(count, digits=3), "fewer"),
    "FLOPs": ("flops", millions, "fewer"),
    "latency": ("milliseconds", "{:.1f} ms".format, "less"),
    "weights": ("bytes", lambda count: f"{count / 1e6:.2f} MB", "less"),
}


class Tile(NamedTuple):
    """A prominent number, its label, and what to compare it with."""

    label: str
    number: str
    beside: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        title: its network and method.
        tiles: its main numbers.
        sentences: remarks on them.
        table: teacher, student before and student after; None if the run did not measure them.
    """

    title: str
    tiles: tuple[Tile, ...]
    sentences: str
    table: Table | None = None


def outcome(run: Run) -> Outcome:
    """Summarise a run.

    Args:
        run: of any kind.

    Raises:
        RunError: its before_after.json is damaged.
    """
    measured = read_before_after(run.path)
    before = None if measured is None else measured.before.accuracy
    tiles = (
        *_accuracies(run, before),
        *(_costs(run) if measured is None else _costs_beside_teacher(measured)),
    )
    sentences = (_teacher_remark(run, before), _best_epoch_remark(run))
    title = f"{run.pair}, {run.row}"
    table = None
    if measured is not None:
        table = before_after_table(measured, title, teacher_network(run))
    return Outcome(title, tiles, " ".join(filter(None, sentences)), table)


def _accuracies(run: Run, before: float | None) -> list[Tile]:
    after, teacher = run.summary.last_accuracy, run.summary.teacher_accuracy
    beside = "on the test images" if before is None else f"{before:.2f} % before"
    tiles = [Tile("accuracy", f"{after:.2f} %", beside)]
    if teacher is not None:
        side = "above" if teacher > after else "below"
        beside = f"{abs(teacher - after):.2f} points {side} the student"
        beside = "as the student" if teacher == after else beside
        tiles.append(Tile("teacher", f"{teacher:.2f} %", beside))
    return tiles


def _costs(run: Run) -> list[Tile]:
    summary = run.summary
    return [
        Tile("parameters", millions(summary.parameters, digits=3)),
        Tile("FLOPs", millions(summary.flops), "for one image"),
    ]


def _costs_beside_teacher(measured: BeforeAfter) -> list[Tile]:
    """The student's costs, compared with its teacher's."""
    tiles = []
    for label, (field, text, less) in COSTS.items():
        own = getattr(measured.after, field)
        beside = ""
        if measured.teacher is not None:
            beside = _times(getattr(measured.teacher, field), own, less)
        tiles.append(Tile(label, text(own), beside))
    return tiles


def _times(teacher: float, student: float, less: str) -> str:
    """The factor by which a student's cost differs from its teacher's.

    Example:
        >>> _times(74.0, 4.3, "less"), _times(1.0, 1.0, "less")
        ('17 × less than the teacher', 'as the teacher')
    """
    ratio = max(teacher, student) / max(min(teacher, student), 1e-12)
    digits = 0 if ratio >= 10 else 1
    if round(ratio, digits) == 1:
        return "as the teacher"
    return f"{ratio:.{digits}f} × {less if student < teacher else 'more'} than the teacher"


def _teacher_remark(run: Run, before: float | None) -> str:
    teacher, after = run.summary.teacher_accuracy, run.summary.last_accuracy
    if teacher is None:
        return ""
    if before is not None and teacher <= before:
        return "The student was no worse than its teacher before distillation."
    if after > teacher:
        return "On these images the student is more accurate than its teacher."
    return ""


def _best_epoch_remark(run: Run) -> str:
    summary = run.summary
    if summary.best_accuracy <= summary.last_accuracy:
        return ""
    chosen = (
        "held-out images"
        if summary.best_by == "dev"
        else ("the test images, which makes it an optimistic figure")
    )
    return (
        f"The best epoch was {summary.best_epoch + 1} of {summary.epochs}, with "
        f"{summary.best_accuracy:.2f} %, chosen on {chosen}; its weights are "
        "student-best.safetensors."
    )
