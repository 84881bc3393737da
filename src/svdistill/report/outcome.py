"""What distillation gained: teacher, student before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich import box
from rich.table import Table

from svdistill.report.runs import Run, millions, teacher_network
from svdistill.report.statistics import wilson_interval
from svdistill.report.tables import Cell, Heading, HTMLTable, number_cell
from svdistill.training import BeforeAfter, NetworkFigures, read_before_after

BEFORE_AFTER_HEADINGS = ("", "accuracy % (95 %)", "parameters", "FLOPs", "latency", "file")


def before_after_table(measured: BeforeAfter) -> Table:
    """The table for a rich console."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        box=box.SIMPLE,
        caption=before_after_note(measured),
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for place, heading in enumerate(BEFORE_AFTER_HEADINGS):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for cells in before_after_rows(measured):
        table.add_row(*cells)
    return table


def before_after_rows(measured: BeforeAfter) -> list[tuple[str, ...]]:
    """The cells, a row for each network that there is."""
    return [
        (name, *_cells(figures, measured.test_images)) for name, figures in measured.rows().items()
    ]


def before_after_note(measured: BeforeAfter) -> str:
    """What was measured, and on what."""
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    return (
        f"accuracy on {measured.test_images:,} test images, with its 95 % interval; latency of one "
        f"image on the CPU, {threads}, the median"
    )


def _cells(figures: NetworkFigures, images: int) -> tuple[str, ...]:
    low, high = wilson_interval(figures.accuracy, images)
    return (
        f"{figures.accuracy:.2f} ({low:.1f}-{high:.1f})",
        millions(figures.parameters, digits=3),
        millions(figures.flops),
        f"{figures.milliseconds:.1f} ms",
        f"{figures.bytes / 1e6:.1f} MB",
    )


OUTCOME_HEADINGS: Final = (
    "accuracy %",
    "95 % interval",
    "parameters",
    "FLOPs",
    "latency, ms",
    "file, MB",
)


class Tile(NamedTuple):
    """A number that stands out, what it is, and what to hold beside it."""

    label: str
    number: str
    beside: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        title: its network and method.
        tiles: its numbers in short.
        sentences: what to think of them.
        table: teacher, student before and student after; None where a run did not measure them.
    """

    title: str
    tiles: tuple[Tile, ...]
    sentences: str
    table: HTMLTable | None = None


def outcome(run: Run) -> Outcome:
    """Sum a run up.

    Args:
        run: of any kind; one of an early version did not measure its student before.

    Raises:
        RunError: its before_after.json is damaged.
    """
    measured = read_before_after(run.path)
    before = None if measured is None else measured.before.accuracy
    tiles = (*_accuracies(run, before), *(_costs(run) if measured is None else _prices(measured)))
    sentences = (_of_teacher(run, before), _of_best_epoch(run))
    table = None if measured is None else _table(run, measured)
    return Outcome(f"{run.pair}, {run.row}", tiles, " ".join(filter(None, sentences)), table)


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


def _prices(measured: BeforeAfter) -> list[Tile]:
    """What the student costs, and how that compares with its teacher."""
    own, teacher = measured.after, measured.teacher

    def against(of: Callable[[NetworkFigures], float], less: str, more: str) -> str:
        return "" if teacher is None else _times(of(teacher), of(own), less, more)

    return [
        Tile(
            "parameters",
            millions(own.parameters, digits=3),
            against(lambda one: one.parameters, "fewer", "more"),
        ),
        Tile("FLOPs", millions(own.flops), against(lambda one: one.flops, "fewer", "more")),
        Tile(
            "latency",
            f"{own.milliseconds:.1f} ms",
            against(lambda one: one.milliseconds, "less", "more"),
        ),
        Tile(
            "weights",
            f"{own.bytes / 1e6:.2f} MB",
            against(lambda one: one.bytes, "less", "more"),
        ),
    ]


def _times(teacher: float, student: float, less: str, more: str) -> str:
    """By what factor a student's cost differs.

    Example:
        >>> _times(74.0, 4.3, "less", "more"), _times(1.0, 1.0, "less", "more")
        ('17 × less than the teacher', 'as the teacher')
    """
    ratio = max(teacher, student) / max(min(teacher, student), 1e-12)
    digits = 0 if ratio >= 10 else 1
    if round(ratio, digits) == 1:
        return "as the teacher"
    return f"{ratio:.{digits}f} × {less if student < teacher else more} than the teacher"


def _of_teacher(run: Run, before: float | None) -> str:
    teacher, after = run.summary.teacher_accuracy, run.summary.last_accuracy
    if teacher is None:
        return ""
    if before is not None and teacher <= before:
        return "The student began no worse than its teacher, which had nothing to teach."
    if after > teacher:
        return "On these images the student is more often right than its teacher."
    return ""


def _of_best_epoch(run: Run) -> str:
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


def _table(run: Run, measured: BeforeAfter) -> HTMLTable:
    names = {"teacher": f"teacher {teacher_network(run)}".strip()}
    rows = [
        _row(names.get(name, name), one, measured.test_images)
        for name, one in measured.rows().items()
    ]
    note = before_after_note(measured)
    return HTMLTable(
        title=f"{run.pair}, {run.row}",
        caption=note[0].upper() + note[1:],
        headings=(Heading("network", numeric=False), *map(Heading, OUTCOME_HEADINGS)),
        rows=tuple(rows),
        best=(len(rows) - 1,),
    )


def _row(name: str, figures: NetworkFigures, images: int) -> tuple[Cell, ...]:
    low, high = wilson_interval(figures.accuracy, images)
    return (
        Cell(name),
        number_cell(figures.accuracy),
        Cell(f"{low:.1f} to {high:.1f}", low),
        Cell(millions(figures.parameters, digits=3), figures.parameters),
        Cell(millions(figures.flops), figures.flops),
        number_cell(figures.milliseconds),
        number_cell(figures.bytes / 1e6),
    )
