"""Test accuracy by epoch: a line for each row of students, a level for their teacher."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from svdistill.report.bands import band_of
from svdistill.report.comparisons import MethodRuns
from svdistill.report.figure import BLACK, Figure, draw_band, new_drawing, plain, styled, to_svg
from svdistill.report.grouping import compare
from svdistill.report.runs import Run


def accuracy_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw test accuracy by epoch.

    Args:
        runs: of one pair of networks; at most 8 rows stay readable.

    Returns:
        The figure; None without runs.
    """
    methods = [method for comparison in compare(runs) for method in comparison.methods]
    students = [method for method in methods if not method.is_teacher]
    if not methods:
        return None
    lines = students or methods
    levels = _levels(methods) if students else {}
    drawing = new_drawing(10, 4.6 + 0.2 * ((len(methods) + 1) // 2))
    axes = drawing.subplots()
    plain(axes)
    styles = styled(method.name for method in lines)
    ranked = sorted(lines, key=_accuracy, reverse=True)
    for method in ranked:
        band = band_of([[record.test_accuracy for record in run.records] for run in method.runs])
        label = f"{method.name}: {_accuracy(method):.1f}"
        draw_band(axes, range(1, len(band.mean) + 1), band, styles[method.name], label)
    for name, accuracy in levels.items():
        label = f"{name}, last epoch: {accuracy:.1f}"
        axes.axhline(accuracy, color=BLACK, linewidth=1.2, dashes=(8, 3), label=label)
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    pairs = " and ".join(dict.fromkeys(method.runs[0].pair for method in lines))
    accuracies = levels | {row.name: _accuracy(row) for row in ranked}
    ends = ", ".join(f"{name} {accuracy:.1f}" for name, accuracy in accuracies.items())
    several = any(len(row.runs) > 1 for row in lines)
    seeds = (
        "Each line is the mean over a row's seeds; its band reaches from the lowest seed to the "
        "highest. "
    )
    alt = f"Lines of test accuracy by epoch, {pairs}. After the last epoch, in percent: {ends}."
    return Figure(
        title=f"{pairs}: test accuracy by epoch",
        caption=(seeds if several else "")
        + "The legend gives the accuracy after the last epoch, the best row first.",
        alt=alt,
        svg=to_svg(drawing, "accuracy", alt),
    )


def _levels(methods: Sequence[MethodRuns]) -> dict[str, float]:
    """The teachers' accuracies by their names, or the one that all taught students measured."""
    teachers = {method.name: _accuracy(method) for method in methods if method.is_teacher}
    measured = {
        run.summary.teacher_accuracy
        for method in methods
        if method.is_taught
        for run in method.runs
    }
    only = measured.pop() if len(measured) == 1 else None
    return teachers or ({} if only is None else {"teacher": only})


def _accuracy(method: MethodRuns) -> float:
    """Mean over the seeds, after the last epoch."""
    return statistics.fmean(method.last)
