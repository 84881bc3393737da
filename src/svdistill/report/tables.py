"""Tables of runs for terminal, Markdown and HTML."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from svdistill.report.runs import millions
from svdistill.runs import RunSummary

HEADINGS = ("", "accuracy %", "best epoch %", "parameters", "FLOPs", "seeds")


@dataclass(frozen=True)
class MethodRow:
    """The runs of one method, which differ in their seeds alone.

    Accuracies are percentages on the test split, one a seed, after the last and the best epoch.
    """

    method: str
    last: tuple[float, ...]
    best: tuple[float, ...]
    parameters: int
    flops: int


def method_rows(runs: Iterable[tuple[str, RunSummary]]) -> list[MethodRow]:
    """Gather runs by method, in the order in which methods first come.

    Args:
        runs: pairs of a method's name and a run's summary.

    Returns:
        A row for each method.
    """
    gathered: dict[str, list[RunSummary]] = {}
    for method, summary in runs:
        gathered.setdefault(method, []).append(summary)
    return [
        MethodRow(
            method,
            tuple(run.last_accuracy for run in summaries),
            tuple(run.best_accuracy for run in summaries),
            summaries[0].parameters,
            summaries[0].flops,
        )
        for method, summaries in gathered.items()
    ]


def mean_std(values: Sequence[float]) -> str:
    """Mean and, of several values, sample standard deviation.

    Example:
        >>> mean_std([1.0, 3.0]), mean_std([2.0])
        ('2.00 ± 1.41', '2.00')
    """
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def run_table(rows: Sequence[MethodRow], title: str) -> Table:
    """The rows for a rich console."""
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(HEADINGS):
        # In a narrow terminal names are broken, numbers never.
        table.add_column(heading, justify="right" if place else "left", no_wrap=place > 0)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def markdown_table(rows: Sequence[MethodRow]) -> str:
    """The rows as a Markdown table.

    Example:
        >>> print(markdown_table([MethodRow("SVD", (90.0, 92.0), (91.0, 93.0), 50154, 1413120)]))
        |  | accuracy % | best epoch % | parameters | FLOPs | seeds |
        |---|---|---|---|---|---|
        | SVD | 91.00 ± 1.41 | 92.00 ± 1.41 | 0.050M | 1.4M | 2 |
    """
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: MethodRow) -> tuple[str, ...]:
    return (
        row.method,
        mean_std(row.last),
        mean_std(row.best),
        millions(row.parameters, digits=3),
        millions(row.flops),
        str(len(row.last)),
    )


NOTHING = "–"  # in the cell of a number that is not known


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and the number behind it, None where there is none."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Heading:
    """A column's heading; columns of numbers are aligned to the right."""

    text: str
    numeric: bool = True


@dataclass(frozen=True)
class HTMLTable:
    """A table that the page shows.

    Attributes:
        title: of what.
        caption: what the numbers are.
        headings: one a column.
        rows: as many cells each; the first heads its row.
        best: numbers of the rows that stand out.
    """

    title: str
    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    best: tuple[int, ...] = ()


def number_cell(number: float | None, pattern: str = "{:.2f}") -> Cell:
    """A number, or a dash where it is not known.

    Example:
        >>> number_cell(-3.14159), number_cell(None)
        (Cell(text='−3.14', number=-3.14159), Cell(text='–', number=None))
    """
    if number is None or not math.isfinite(number):
        return Cell(NOTHING)
    return Cell(pattern.format(number).replace("-", "\N{MINUS SIGN}"), number)


def mean_cell(values: Sequence[float], *, signed: bool = False) -> Cell:
    """Mean and standard deviation, sorted by the mean; a dash where there are no values.

    Example:
        >>> mean_cell([61.0, 63.0]).text, mean_cell([2.0], signed=True).text
        ('62.00 ± 1.41', '+2.00')
    """
    if not values:
        return Cell(NOTHING)
    mean = statistics.fmean(values)
    sign = "+" if signed and mean > 0 else ""
    return Cell(sign + mean_std(values).replace("-", "\N{MINUS SIGN}"), mean)
