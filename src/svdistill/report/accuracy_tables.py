"""Accuracy tables: a row for each method, beside the student alone and the paper's number."""

from __future__ import annotations

from svdistill.report.comparisons import Comparison
from svdistill.report.deviations import deviations
from svdistill.report.html_table import Cell, Heading, HTMLTable, mean_cell, number_cell
from svdistill.report.method_results import MethodResult, best_results, method_results
from svdistill.report.network_tables import millions

OWN_HEADINGS = ("last epoch %", "best epoch %", "seeds", "gain")
PAPER_HEADINGS = ("paper's gain", "paper's %", "difference")
COST_HEADINGS = ("parameters", "FLOPs")


def accuracy_table(comparison: Comparison) -> HTMLTable:
    """A row for each method; the student with the highest mean stands out.

    The paper's columns are there where it has a number for any row.

    Args:
        comparison: of one pair of networks on one data set.

    Returns:
        The table.
    """
    results = method_results(comparison)
    with_paper = any(result.published is not None for result in results)
    headings = (*OWN_HEADINGS, *(PAPER_HEADINGS if with_paper else ()), *COST_HEADINGS)
    best = best_results(results)
    return HTMLTable(
        title=comparison.title,
        caption="Test accuracy in percent, mean ± standard deviation over the seeds",
        headings=(Heading("method", numeric=False), *map(Heading, headings)),
        rows=tuple(_row(result, with_paper) for result in results),
        best=tuple(place for place, result in enumerate(results) if result in best),
    )


def accuracy_note(comparison: Comparison) -> str:
    """How the numbers are to be read: the best epoch's, and for the seed's networks the paper's.

    Args:
        comparison: the table's.

    Returns:
        Sentences.
    """
    notes = [_note_on_paper(comparison)] if comparison.is_of_seed else []
    return " ".join([*notes, _note_on_best(comparison)])


def _note_on_paper(comparison: Comparison) -> str:
    if all(result.published is None for result in method_results(comparison)):
        return f"The paper has no number for these rows on {comparison.data}."
    differing = deviations(comparison)
    trained = ", ".join(one.setting for one in differing if one.of_training)
    taught = ", ".join(one.setting for one in differing if not one.of_training)
    if trained:
        return (
            "The paper's numbers are for its full protocol, from which these runs differ in "
            f"{trained}. So the difference does not say whether the paper's result was "
            "reproduced, and of the two gains only the sign can be compared."
        )
    if taught:
        return f"Trained as in the paper; the way to teach differs in {taught}."
    return "Trained and taught as in the paper."


def _note_on_best(comparison: Comparison) -> str:
    if all(run.summary.best_by == "dev" for run in comparison.runs):
        return "The best epoch is the best on held-out images."
    return "The best epoch was chosen on the test images, so its accuracy is an optimistic figure."


def _row(result: MethodResult, with_paper: bool) -> tuple[Cell, ...]:
    method, summary = result.method, result.method.runs[0].summary
    seeds = len(set(method.seeds))
    repeated = f" ({len(method.runs)} runs)" if len(method.runs) > seeds else ""
    paper_cells = (
        number_cell(result.published_gain, "{:+.2f}"),
        number_cell(result.published),
        number_cell(result.difference, "{:+.2f}"),
    )
    return (
        Cell(method.name),
        mean_cell(method.last),
        mean_cell(method.best),
        Cell(f"{seeds}{repeated}", seeds),
        mean_cell(result.gains, signed=True),
        *(paper_cells if with_paper else ()),
        Cell(millions(summary.parameters, digits=3), summary.parameters),
        Cell(millions(summary.flops), summary.flops),
    )
