"""The figures of the page, section by section; where one cannot be drawn, a sentence says why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from svdistill.losses.registry import reads
from svdistill.report.clipping_figure import clipping_curves
from svdistill.report.comparisons import Comparison
from svdistill.report.cost_figure import accuracy_against_cost
from svdistill.report.curve_figures import accuracy_curves
from svdistill.report.figure import LINE_STYLES
from svdistill.report.latency import measure_latencies
from svdistill.report.part import Part, part_of
from svdistill.report.runs import Run
from svdistill.report.vectors_figure import number_of_vectors


def curves_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Test accuracy by epoch, some rows in each figure, the best first."""
    parts = []
    for comparison in comparisons:
        drawn = (accuracy_curves(runs) for runs in _some_rows(comparison))
        parts.append(Part(comparison.title, tuple(figure for figure in drawn if figure), ()))
    return parts


def vectors_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Accuracy by the number of vectors, all pairs on a data set in one figure."""
    otherwise = (
        "Not drawn: no method was trained with two numbers of vectors k or more, beside a student "
        "alone that was trained alike."
    )
    parts = [
        part_of(data, number_of_vectors(runs), otherwise)
        for data, runs in _by_data(comparisons).items()
    ]
    drawn = [part for part in parts if part.figures]
    return drawn or parts[:1]  # the reason is the same for all


def cost_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Accuracy against FLOPs, parameters and latency, all pairs on a data set in one figure."""
    parts = []
    for data, runs in _by_data(comparisons).items():
        latencies = measure_latencies(runs)
        figure = accuracy_against_cost(runs, latencies.networks)
        parts.append(Part(data, () if figure is None else (figure,), latencies.left_out))
    return parts


def clipping_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Gradient norms by epoch, and how often singular values were too close for the gradient."""
    parts = []
    for comparison in comparisons:
        figure = clipping_curves(comparison.runs)
        missing = [] if figure else ["Not drawn: no run recorded the gradients of both tasks."]
        svd = [run for run in comparison.runs if reads(run.config.get("loss", ""), "num_vectors")]
        if svd and all(record.svd_close is None for run in svd for record in run.records):
            missing.append("How often two singular values were close was not recorded.")
        parts.append(Part(comparison.title, (figure,) if figure else (), tuple(missing)))
    return parts


def _some_rows(comparison: Comparison) -> list[list[Run]]:
    """The runs of each figure: teacher, student alone, and as many taught rows as stay apart."""
    own = [method for method in comparison.methods if method.is_teacher or method.is_alone]
    taught = [method for method in comparison.students if not method.is_alone]
    taught.sort(key=lambda method: -statistics.fmean(method.last))
    places = range(0, max(len(taught), 1), len(LINE_STYLES))
    return [
        [run for method in (*own, *taught[at : at + len(LINE_STYLES)]) for run in method.runs]
        for at in places
    ]


def _by_data(comparisons: Sequence[Comparison]) -> dict[str, list[Run]]:
    """The runs of each data set, each once: a teacher may be lent to two pairs."""
    groups: dict[str, dict[str, Run]] = {}
    for comparison in comparisons:
        group = groups.setdefault(comparison.data, {})
        group.update((str(run.path), run) for run in comparison.runs)
    return {data: list(group.values()) for data, group in groups.items()}
