"""A part of a section of the page, as far as it can be shown."""

from __future__ import annotations

from dataclasses import dataclass

from svdistill.report.figure import Figure
from svdistill.report.html_table import HTMLTable


@dataclass(frozen=True)
class Part:
    """What a section shows of one comparison, or of several on the same data.

    Attributes:
        title: of which.
        figures: those that can be drawn.
        missing: a sentence for each thing that cannot be shown, and why.
        table: shown above the figures.
    """

    title: str
    figures: tuple[Figure, ...] = ()
    missing: tuple[str, ...] = ()
    table: HTMLTable | None = None


def part_of(title: str, figure: Figure | None, otherwise: str) -> Part:
    """A figure, or the sentence that says why there is none."""
    return Part(title, missing=(otherwise,)) if figure is None else Part(title, (figure,))
