"""What accuracy costs: FLOPs, parameters and latency of teachers and students."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from svdistill.report.comparisons import MethodRuns
from svdistill.report.figure import BLACK, Figure, new_drawing, plain, styled, to_svg
from svdistill.report.grouping import compare
from svdistill.report.latency import Latency
from svdistill.report.network_tables import millions
from svdistill.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST: Final = "student, best row"
MOST_NAMED: Final = 4  # rows in a caption
LEGEND_WIDTH: Final = 90  # characters abreast
ROLES: Final[dict[str, dict[str, Any]]] = {
    "teacher": {"marker": "s", "markersize": 8, "linestyle": ""},
    "student alone": {"marker": "o", "markersize": 8, "linestyle": "", "markerfacecolor": "none"},
    BEST: {"marker": "*", "markersize": 13, "linestyle": ""},
}


@dataclass(frozen=True)
class CostPoint:
    """A network, trained in one way.

    Attributes:
        pair: its networks.
        role: `"teacher"`, `"student alone"` or `"student, best row"`.
        row: how it was trained.
        accuracy: mean over the seeds, in percent after the last epoch.
        run: one of its runs, whose costs are those of all.
    """

    pair: str
    role: str
    row: str
    accuracy: float
    run: Run


Cost = Callable[[CostPoint], float | None]


def accuracy_against_cost(runs: Sequence[Run], latencies: Sequence[Latency]) -> Figure | None:
    """Draw accuracy against FLOPs, parameters and latency, a panel for each.

    Args:
        runs: on one data set.
        latencies: as `measure_latencies` returns them; without any there is no such panel.

    Returns:
        The figure; None without runs.
    """
    points = cost_points(runs)
    if not points:
        return None
    costs: dict[str, Cost] = {
        "FLOPs, millions": lambda point: point.run.summary.flops / 1e6,
        "parameters, millions": lambda point: point.run.summary.parameters / 1e6,
    }
    if latencies:
        costs["latency of one image, ms"] = lambda point: _milliseconds(point, latencies)
    styles = styled(point.pair for point in points)
    colours = {pair: style.colour for pair, style in styles.items()}
    columns = _columns([*colours, *ROLES])
    rows = -(-(len(colours) + len(ROLES)) // columns)
    drawing = new_drawing(10, 4.0 + 0.2 * rows)
    panels = drawing.subplots(1, len(costs), sharey=True)
    for axes, (label, cost) in zip(panels, costs.items(), strict=True):
        _draw(axes, points, cost, colours)
        axes.set_xlabel(label)
    panels[0].set_ylabel("test accuracy, %")
    for pair, colour in colours.items():
        panels[0].plot([], [], color=colour, linewidth=3, label=pair)
    for role, look in ROLES.items():
        panels[0].plot([], [], color=BLACK, label=role, **look)
    drawing.legend(loc="outside lower center", ncols=columns, frameon=False)
    alt = "Accuracy against cost. " + "; ".join(map(_spoken, points)) + "."
    return Figure(
        title="Accuracy and what it costs",
        caption=f"Means over the seeds. A line joins the student alone with the row that did best"
        f"{_best_rows(points)}. Left and up is better."
        + (f" {_measured(latencies)}" if latencies else ""),
        alt=alt,
        svg=to_svg(drawing, "cost", alt),
    )


def cost_points(runs: Sequence[Run]) -> list[CostPoint]:
    """Each teacher, each student alone, and the best row of each pair's taught students."""
    points = []
    for comparison in compare(runs):
        taught = [method for method in comparison.students if not method.is_alone]
        best = max(taught, key=_accuracy, default=None)
        own = None if best is None else comparison.alone(best)
        alone = [method for method in comparison.students if method.is_alone]
        points += [_point("teacher", method) for method in comparison.teachers]
        points += [_point("student alone", method) for method in ([own] if own else alone)]
        points += [_point(BEST, best)] if best else []
    # A teacher that is lent to a second pair is there twice.
    return list({(point.role, point.run.path): point for point in points}.values())


def _draw(axes: Axes, points: Sequence[CostPoint], cost: Cost, colours: Mapping[str, str]) -> None:
    plain(axes)
    placed = [(point, cost(point)) for point in points]
    for pair, colour in colours.items():
        own = [(point, x) for point, x in placed if point.pair == pair and x is not None]
        students = [(x, point.accuracy) for point, x in own if point.role != "teacher"]
        axes.plot(*zip(*students, strict=True), color=colour, linewidth=1.5) if students else None
        for point, x in own:
            axes.plot([x], [point.accuracy], color=colour, **ROLES[point.role])
    axes.set_xlim(0, 1.15 * max((x for _, x in placed if x is not None), default=1.0))
    axes.margins(y=0.1)
    axes.locator_params(axis="x", nbins=4)


def _point(role: str, method: MethodRuns) -> CostPoint:
    run = method.runs[0]
    return CostPoint(run.pair, role, method.name, _accuracy(method), run)


def _accuracy(method: MethodRuns) -> float:
    return statistics.fmean(method.last)


def _milliseconds(point: CostPoint, latencies: Sequence[Latency]) -> float | None:
    return next((time.milliseconds for time in latencies if time.is_of(point.run)), None)


def _columns(labels: Sequence[str]) -> int:
    """Columns of a legend that fit the width of the page."""
    return len(labels) if sum(map(len, labels)) <= LEGEND_WIDTH else 3


def _best_rows(points: Sequence[CostPoint]) -> str:
    """Which these are, unless there are many."""
    best = [f"{point.row} for {point.pair}" for point in points if point.role == BEST]
    return f", {', '.join(best)}" if 0 < len(best) <= MOST_NAMED else ""


def _measured(latencies: Sequence[Latency]) -> str:
    first = latencies[0]
    threads = f"{first.threads} thread" + ("s" if first.threads > 1 else "")
    return f"Latency is the median time of one image on {first.processor}, {threads}."


def _spoken(point: CostPoint) -> str:
    cost = point.run.summary
    return (
        f"{point.pair} {point.role} {point.accuracy:.1f} % with {millions(cost.flops)} FLOPs and "
        f"{millions(cost.parameters, 2)} parameters"
    )
