"""What a comparison comes down to: four numbers and a few sentences, all from the runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from svdistill.losses.registry import reads
from svdistill.report.comparisons import Comparison, MethodRuns
from svdistill.report.html_table import Cell, mean_cell
from svdistill.report.method_results import MethodResult, method_results


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
