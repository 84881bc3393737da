"""Tables of the report's page: what a cell shows, and the number that it is sorted by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from svdistill.report.run_tables import mean_std

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
