"""Accuracies and costs of the compared methods as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from svdistill.losses import reads
from svdistill.report.comparison import (
    Comparison,
    MethodResult,
    MethodRuns,
    best_results,
    method_results,
    seconds_per_image,
)
from svdistill.report.deviations import deviations
from svdistill.report.runs import millions
from svdistill.report.tables import Cell, Heading, HTMLTable, mean_cell, number_cell

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
    """How the numbers are to be read: the best epoch's, and for the paper's networks the paper's.

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


HEADINGS = ("milliseconds for an image", "over the student alone", "share of the transfer")


def step_time_table(comparison: Comparison) -> HTMLTable | None:
    """Time for an image in training, a row for each student.

    Args:
        comparison: of one pair of networks on one data set.

    Returns:
        The table; None where no taught student was trained beside a student alone, on one machine.
    """
    results = method_results(comparison)
    if not any(result.gains and result.step_time for result in results):
        return None
    return HTMLTable(
        title=comparison.title,
        caption="Time of a training step in the fastest epoch, mean over the seeds",
        headings=(Heading("method", numeric=False), *map(Heading, HEADINGS)),
        rows=tuple(
            _step_time_row(result, result.step_time)
            for result in results
            if result.step_time is not None
        ),
    )


def _step_time_row(result: MethodResult, step_time: float) -> tuple[Cell, ...]:
    seconds = statistics.fmean(map(seconds_per_image, result.method.runs))
    return (
        Cell(result.method.name),
        number_cell(1e3 * seconds, "{:.3f}"),
        number_cell(step_time, "× {:.2f}"),
        number_cell(100 * (1 - 1 / step_time) if step_time >= 1 else None, "{:.0f} %"),
    )


@dataclass(frozen=True)
class Headline:
    """The result of one comparison.

    Attributes:
        title: the pair of networks and the data.
        numbers: label, and accuracy or gain.
        sentences: the same in words, with what it rests on.
    """

    title: str
    numbers: tuple[tuple[str, Cell], ...]
    sentences: str


def headline(comparison: Comparison) -> Headline:
    """Sum a comparison up by its best taught student, and by the best that SVD taught.

    Args:
        comparison: of one pair of networks on one data set.

    Returns:
        The headline. A gain that the runs do not tell is not among the numbers; a sentence says
        why.
    """
    results = method_results(comparison)
    taught = [result for result in results if result.method.is_taught]
    best = max(taught, key=_accuracy, default=None)
    alone = _alone(comparison, best)
    shown = [
        *comparison.teachers[:1],
        *([alone] if alone else []),
        *([best.method] if best else []),
    ]
    numbers = [(f"{method.name}, %", mean_cell(method.last)) for method in shown]
    if best is not None and best.gains:
        numbers.append(("gain, points", mean_cell(best.gains, signed=True)))
    sentences = [_ranking(best, len(taught)), _of_svd(taught, best), _of_teacher(comparison, alone)]
    return Headline(comparison.title, tuple(numbers), " ".join(filter(None, sentences)))


def _accuracy(result: MethodResult) -> float:
    return result.accuracy


def _alone(comparison: Comparison, best: MethodResult | None) -> MethodRuns | None:
    """The student alone to compare with."""
    if best is not None:
        return comparison.alone(best.method)
    return next((method for method in comparison.students if method.is_alone), None)


def _ranking(best: MethodResult | None, methods: int) -> str:
    if best is None:
        return "No student here was taught: there is nothing to compare."
    if methods == 1:
        return f"Taught by {best.method.name}: {_gain(best)}."
    return f"The best of {methods} ways to teach is {best.method.name}: {_gain(best)}."


def _of_svd(taught: Sequence[MethodResult], best: MethodResult | None) -> str:
    svd = [
        result for result in taught if reads(result.method.runs[0].config["loss"], "num_vectors")
    ]
    if not svd or best in svd:
        return ""
    best_svd = max(svd, key=_accuracy)
    return f"By singular vectors the best is {best_svd.method.name}: {_gain(best_svd)}."


def _gain(result: MethodResult) -> str:
    if not result.gains:
        return "what it gained is not known, for lack of a student alone of the same training"
    gain, seeds = statistics.fmean(result.gains), len(result.gains)
    said = f"{abs(gain):.2f} points {'above' if gain > 0 else 'below'} the student alone"
    if seeds == 1:
        return f"{said}, with one seed, so the spread is not known"
    ahead = sum(gain > 0 for gain in result.gains)
    return f"{said} on average, and above it with {ahead} of {seeds} seeds"


def _of_teacher(comparison: Comparison, alone: MethodRuns | None) -> str:
    if not comparison.teachers or alone is None:
        return ""
    if statistics.fmean(comparison.teachers[0].last) > statistics.fmean(alone.last):
        return ""
    return "The teacher is no more accurate than the student alone: it had little to teach."
