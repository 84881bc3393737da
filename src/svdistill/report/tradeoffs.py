"""Accuracy against cost, and against the number of singular vectors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from svdistill.common import millions
from svdistill.losses import may_read
from svdistill.report.comparison import Comparison, MethodResult, PairComparison
from svdistill.report.figure import (
    BLACK,
    Band,
    Figure,
    LineStyle,
    Section,
    band_of,
    draw_band,
    legend,
    new_drawing,
    plain,
    styled,
    to_figure,
)
from svdistill.report.networks import Latency, measure_latencies
from svdistill.report.protocol import published_vectors
from svdistill.report.runs import Run, row_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST: Final = "student, best row"

MOST_NAMED: Final = 4  # rows in a caption

LEGEND_WIDTH: Final = 90  # characters in one line of a legend

# The fill of a network's marker; its colour and shape are those of its pair.
ROLES: Final[dict[str, dict[str, Any]]] = {
    "teacher": {"fillstyle": "full"},
    "student alone": {"fillstyle": "none"},
    BEST: {"fillstyle": "bottom", "markerfacecoloralt": "none"},
}

MARKER_SIZE: Final = 9

PAPER_DASHES: Final = ("--", ":", "-.", "-")


@dataclass(frozen=True)
class CostPoint:
    """A network, trained by one method.

    Attributes:
        pair: its pair of networks.
        role: `"teacher"`, `"student alone"` or `"student, best row"`.
        row: the method's name.
        accuracy: mean over the seeds, in percent after the last epoch.
        run: one of its runs, which all have the same costs.
    """

    pair: str
    role: str
    row: str
    accuracy: float
    run: Run


Cost = Callable[[CostPoint], float | None]


def cost_section(comparison: Comparison) -> list[Section]:
    """Accuracy against FLOPs, parameters and latency, all pairs on a data set in one figure."""
    sections = []
    for data, pairs in comparison.by_data.items():
        latencies = measure_latencies([run for pair in pairs for run in pair.runs])
        figure = accuracy_against_cost(pairs, latencies.networks)
        sections.append(Section(data, (figure,), latencies.left_out))
    return sections


def accuracy_against_cost(pairs: Sequence[PairComparison], latencies: Sequence[Latency]) -> Figure:
    """Draw accuracy against FLOPs, parameters and latency, a panel for each.

    Args:
        pairs: at least one, all on one data set.
        latencies: as `measure_latencies` returns them; without any there is no panel of latency.
    """
    points = cost_points(pairs)
    costs: dict[str, Cost] = {
        "FLOPs, millions": lambda point: point.run.summary.flops / 1e6,
        "parameters, millions": lambda point: point.run.summary.parameters / 1e6,
    }
    if latencies:
        costs["latency of one image, ms"] = lambda point: _milliseconds(point, latencies)
    styles = styled(point.pair for point in points)
    labels = [*styles, *ROLES]
    columns = len(labels) if sum(map(len, labels)) <= LEGEND_WIDTH else 3
    drawing = new_drawing(10, 4.0 + 0.2 * -(-len(labels) // columns))
    panels = drawing.subplots(1, len(costs), sharey=True)
    for axes, (label, cost) in zip(panels, costs.items(), strict=True):
        _draw_costs(axes, points, cost, styles)
        axes.set_xlabel(label)
    panels[0].set_ylabel("test accuracy, %")
    for pair, style in styles.items():
        look = {"color": style.colour, "marker": style.marker, "linestyle": style.dashes}
        panels[0].plot([], [], label=pair, markersize=6, **look)
    for role, fill in ROLES.items():
        panels[0].plot([], [], "o", color=BLACK, markersize=MARKER_SIZE, label=role, **fill)
    legend(drawing, panels[:1], columns=columns)
    alt = "Accuracy against cost. " + "; ".join(map(_point_text, points)) + "."
    best = [f"{point.row} for {point.pair}" for point in points if point.role == BEST]
    named = f", {', '.join(best)}" if 0 < len(best) <= MOST_NAMED else ""
    return to_figure(
        drawing,
        "cost",
        title="Accuracy and what it costs",
        caption=f"Means over the seeds. A line joins the student alone with the best row{named}. "
        "Left and up is better." + (f" {_latency_note(latencies[0])}" if latencies else ""),
        alt=alt,
    )


def cost_points(pairs: Sequence[PairComparison]) -> list[CostPoint]:
    """Each teacher, each student alone, and the best row of each pair's distilled students."""
    points = []
    for pair in pairs:
        best = max(pair.distilled, key=lambda method: method.accuracy, default=None)
        alone = None if best is None else pair.student_alone(best)
        students = [alone] if alone else [row for row in pair.students if row.is_alone]
        points += [_point("teacher", method) for method in pair.teachers]
        points += [_point("student alone", method) for method in students]
        points += [_point(BEST, best)] if best else []
    # A teacher of two pairs is there twice.
    return list({(point.role, point.run.path): point for point in points}.values())


def _draw_costs(
    axes: Axes, points: Sequence[CostPoint], cost: Cost, styles: Mapping[str, LineStyle]
) -> None:
    plain(axes)
    placed = [(point, x) for point in points if (x := cost(point)) is not None]
    for pair, style in styles.items():
        own = [(point, x) for point, x in placed if point.pair == pair]
        students = [(x, point.accuracy) for point, x in own if point.role != "teacher"]
        if students:
            xs, accuracies = zip(*students, strict=True)
            axes.plot(xs, accuracies, color=style.colour, linestyle=style.dashes, linewidth=1.5)
        for point, x in own:
            axes.plot(
                [x],
                [point.accuracy],
                color=style.colour,
                marker=style.marker or "o",
                markersize=MARKER_SIZE,
                **ROLES[point.role],
            )
    axes.set_xlim(0, 1.15 * max((x for _, x in placed), default=1.0))
    axes.margins(y=0.1)
    axes.locator_params(axis="x", nbins=4)


def _point(role: str, method: MethodResult) -> CostPoint:
    run = method.runs[0]
    return CostPoint(run.pair, role, method.name, method.accuracy, run)


def _milliseconds(point: CostPoint, latencies: Sequence[Latency]) -> float | None:
    return next((time.milliseconds for time in latencies if time.is_of(point.run)), None)


def _latency_note(latency: Latency) -> str:
    threads = f"{latency.threads} thread" + ("s" if latency.threads > 1 else "")
    return f"Latency is the median time of one image on {latency.processor}, {threads}."


def _point_text(point: CostPoint) -> str:
    cost = point.run.summary
    return (
        f"{point.pair} {point.role} {point.accuracy:.1f} % with {millions(cost.flops)} FLOPs and "
        f"{millions(cost.parameters, 2)} parameters"
    )


@dataclass(frozen=True)
class VectorCurve:
    """Accuracy by the number of vectors, all else equal.

    Attributes:
        pair: the networks.
        row: the row's name with one vector.
        counts: numbers of vectors, ascending; 0 is the student alone.
        accuracy: for each of them, in percent after the last epoch, over the seeds.
    """

    pair: str
    row: str
    counts: tuple[int, ...]
    accuracy: Band

    @property
    def gain(self) -> Band:
        """The accuracy in percentage points over the mean of the student alone."""
        alone = self.accuracy.mean[0]
        lines = (self.accuracy.mean, self.accuracy.lowest, self.accuracy.highest)
        return Band(*(tuple(value - alone for value in line) for line in lines))


def vectors_section(comparison: Comparison) -> list[Section]:
    """Accuracy by the number of vectors, all pairs on a data set in one figure.

    Returns:
        A section for each data set that has a figure; one with the reason if none has.
    """
    figures = {data: number_of_vectors(pairs) for data, pairs in comparison.by_data.items()}
    drawn = [Section(data, (figure,)) for data, figure in figures.items() if figure]
    reason = (
        "Not drawn: no method was trained with two numbers of vectors k or more, beside a student "
        "alone of the same training."
    )
    return drawn or [Section(data, missing=(reason,)) for data in list(figures)[:1]]


def number_of_vectors(pairs: Sequence[PairComparison]) -> Figure | None:
    """Draw accuracy and gain by the number of vectors, beside the gain in the paper's figure.

    Returns:
        The figure; None if no row was trained with two numbers of vectors and a student alone.
    """
    curves = [curve for pair in pairs for curve in vector_curves(pair)]
    if not curves:
        return None
    names = [f"{curve.pair}, {curve.row}" for curve in curves]
    pair_names = list(dict.fromkeys(curve.pair for curve in curves))
    published = [line for line in map(published_vectors, pair_names) if line is not None]
    ours = {count for curve in curves for count in curve.counts}
    counts = sorted(ours.union(*(line.counts for line in published)))
    styles = styled(names)
    drawing = new_drawing(10, 4.2 + 0.2 * ((len(curves) + len(published) + 1) // 2))
    left, right = drawing.subplots(1, 2)
    for curve, name in zip(curves, names, strict=True):
        places = [counts.index(count) for count in curve.counts]
        draw_band(left, places, curve.accuracy, styles[name], name)
        draw_band(right, places, curve.gain, styles[name], name)
    for line, dashes in zip(published, PAPER_DASHES, strict=False):
        places = [counts.index(count) for count in line.counts]
        gain = band_of([[accuracy - line.accuracies[0] for accuracy in line.accuracies]])
        draw_band(right, places, gain, LineStyle(BLACK, "x", dashes), f"{line.pair}, the paper's")
    for axes in (left, right):
        plain(axes)
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        axes.set_xlabel("number of vectors k, 0: student alone")
    left.set_ylabel("test accuracy, %")
    right.set_ylabel("gain over the student alone, points")
    legend(drawing, [left, right], columns=2)
    values = "; ".join(
        f"{name}: {_curve_text(curve)}" for name, curve in zip(names, curves, strict=True)
    )
    alt = f"Accuracy against the number of vectors, in percent. {values}."
    beside = (
        ", beside the gains read from the paper's figure (all of CIFAR-100, in full width)"
        if published
        else ""
    )
    return to_figure(
        drawing,
        "vectors",
        title=f"Number of singular vectors, {' and '.join(pair_names)}",
        caption="Left: test accuracy, mean over the seeds, the band from the lowest seed to the "
        f"highest. Right: its gain over the student alone{beside}.",
        alt=alt,
    )


def vector_curves(pair: PairComparison) -> list[VectorCurve]:
    """The methods that were trained with at least two numbers of vectors beside a student alone."""
    rows: dict[tuple[object, ...], list[MethodResult]] = {}
    for method in pair.distilled:
        alone = pair.student_alone(method)
        if alone is not None and may_read(method.loss, "num_vectors"):
            row = row_name({**method.config, "num_vectors": 1})
            rows.setdefault((row, method.loss, *method.training), [alone]).append(method)
    return [
        _vector_curve(pair.pair, str(row), methods)
        for (row, *_), methods in rows.items()
        if len(methods) > 2
    ]


def _vector_curve(pair: str, row: str, methods: Sequence[MethodResult]) -> VectorCurve:
    methods = sorted(methods, key=_count)
    accuracy = Band(
        tuple(statistics.fmean(method.last) for method in methods),
        tuple(min(method.last) for method in methods),
        tuple(max(method.last) for method in methods),
    )
    return VectorCurve(pair, row, tuple(map(_count, methods)), accuracy)


def _count(method: MethodResult) -> int:
    return 0 if method.is_alone else int(method.config["num_vectors"])


def _curve_text(curve: VectorCurve) -> str:
    points = zip(curve.counts, curve.accuracy.mean, strict=True)
    return ", ".join(f"k = {count} {accuracy:.1f}" for count, accuracy in points)
