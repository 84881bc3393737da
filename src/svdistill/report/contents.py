"""What a page is made of: its sections, and what stands in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from svdistill.report.details import Configuration, Machine
from svdistill.report.headlines import Headline
from svdistill.report.html_table import HTMLTable
from svdistill.report.outcome import Outcome
from svdistill.report.part import Part

# Every section in its order, by the field of `Contents` that it shows.
SECTIONS: Final = {
    "outcome": "Outcome",
    "summary": "Summary",
    "accuracy": "Accuracy",
    "curves": "Training curves",
    "vectors": "Number of vectors",
    "cost": "Accuracy against cost",
    "steps": "Share of step time",
    "clipping": "Clipping",
    "spectra": "Taps, spectra and DFVs",
    "images": "Images",
    "details": "Details",
}


@dataclass(frozen=True)
class AccuracyEntry:
    """A comparison's accuracies, and how to read them."""

    table: HTMLTable
    note: str


@dataclass(frozen=True)
class Facts:
    """Names and values, of what the title says."""

    title: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a page shows. A section with nothing in it is left out.

    Attributes:
        title, lead: of the page.
        outcome: what each of a few runs came to.
        is_one_student: whether it is of one run, of which it is not known what its teacher brought.
        summary: what each comparison comes down to.
        accuracy: a table for each.
        curves, vectors, cost, clipping, spectra: their figures.
        steps: tables of the share of step time.
        images: facts of the images that each of a few runs trained on.
        details: what makes the runs again.
        machines: that they were made on.
        deviations: where runs of the seed's networks differ from the paper.
        networks: how these networks differ from its table.
        of_seed: whether any of its networks are among the runs.
        run_count: how many there are.
    """

    title: str = ""
    lead: str = ""
    outcome: Sequence[Outcome] = ()
    is_one_student: bool = False
    summary: Sequence[Headline] = ()
    accuracy: Sequence[AccuracyEntry] = ()
    curves: Sequence[Part] = ()
    vectors: Sequence[Part] = ()
    cost: Sequence[Part] = ()
    steps: Sequence[HTMLTable] = ()
    clipping: Sequence[Part] = ()
    spectra: Sequence[Part] = ()
    images: Sequence[Facts] = ()
    details: Sequence[Configuration] = ()
    machines: Sequence[Machine] = ()
    deviations: Sequence[HTMLTable] = ()
    networks: dict[str, str]
    of_seed: bool
    run_count: int

    @property
    def sections(self) -> dict[str, str]:
        """Names and headings of those that the page has."""
        return {name: heading for name, heading in SECTIONS.items() if getattr(self, name)}
