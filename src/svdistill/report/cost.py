"""Accuracy against cost, and what the clip did."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from svdistill.report.comparison import MethodRuns, compare
from svdistill.report.figure import (
    BLACK,
    BLUE,
    VERMILION,
    Figure,
    LineStyle,
    draw_band,
    new_drawing,
    plain,
    styled,
    to_svg,
)
from svdistill.report.rebuilding import Latency
from svdistill.report.runs import Run, millions
from svdistill.report.statistics import Band, band_of
from svdistill.runs import EpochRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
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


Quantity = Callable[[EpochRecord], float | None]


NORMS: Final[dict[str, tuple[Quantity, LineStyle]]] = {
    "task": (lambda record: record.task_norm, LineStyle(BLACK, "", ":")),
    # The dashed one last, so that both are seen where nothing was clipped.
    "transfer, clipped": (lambda record: record.clipped_norm, LineStyle(BLUE, "", "-")),
    "transfer, as it came": (lambda record: record.transfer_norm, LineStyle(VERMILION, "", "--")),
}

SHARES: Final[dict[str, tuple[Quantity, str]]] = {
    "close": (
        lambda record: record.svd_close,
        "Close: the share of the singular value decompositions in which leading values lie so "
        "close to each other, or to zero, that the gradient is damped",
    ),
    "missed": (
        lambda record: record.svd_missed,
        "Missed: the share that subspace iteration left above its residual bound",
    ),
}

PANELS_ABREAST: Final = 3

GRID_COLUMNS: Final = 6  # one, two or three panels abreast

TITLE_WIDTH: Final = 36  # characters over one of three panels


def clipping_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw the norms of the task's and the transfer's gradient by epoch, a panel for each row.

    Below them, where there were any: the share of the singular value decompositions in which
    leading values were close, and the share that subspace iteration missed.

    Args:
        runs: of one pair of networks.

    Returns:
        The figure; None where no run recorded both gradients.
    """
    every = [method for comparison in compare(runs) for method in comparison.methods]
    methods = [row for row in every if all(_epochs(row, norm) for norm, _ in NORMS.values())]
    if not methods:
        return None
    recorded = [
        name for name, (of, _) in SHARES.items() if any(_epochs(row, of) for row in methods)
    ]
    shares = [name for name in recorded if any(_occurs(row, SHARES[name][0]) for row in methods)]
    columns = min(PANELS_ABREAST, len(methods))
    rows = -(-len(methods) // columns)
    drawing = new_drawing(10, 2.5 * rows + (2.5 + 0.1 * len(methods) if shares else 0) + 0.3)
    grid = drawing.add_gridspec(rows + bool(shares), GRID_COLUMNS)
    panels: list[Axes] = []
    for place, method in enumerate(methods):
        row, column = divmod(place, columns)
        first = panels[0] if panels else None
        where = grid[row, _abreast(column, columns)]
        panels.append(drawing.add_subplot(where, sharex=first, sharey=first))
        _draw_norms(panels[-1], method, title_width=TITLE_WIDTH * PANELS_ABREAST // columns)
        panels[-1].tick_params(labelleft=column == 0)
        panels[-1].set_ylabel("" if column else "gradient norm")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    lines: dict[str, Artist] = {}
    for place, name in enumerate(shares):
        axes = drawing.add_subplot(grid[rows, _abreast(place, len(shares))])
        _draw_share(axes, methods, name)
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    if lines:
        handles, labels = list(lines.values()), list(lines)
        drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    pairs = " and ".join(dict.fromkeys(method.runs[0].pair for method in methods))
    alt = (
        f"Norms of the gradients by epoch, {pairs}. Panels: "
        f"{'; '.join(method.name for method in methods)}."
    )
    explained = (
        f"{SHARES[name][1]}{'.' if name in shares else '; there were none.'}" for name in recorded
    )
    several = any(len(method.runs) > 1 for method in methods)
    seeds = " and a row's seeds; a band reaches from the lowest seed to the highest"
    return Figure(
        title=f"{pairs}: gradients of task and transfer",
        caption="Norms over all parameters, means over an epoch's steps"
        + (seeds if several else "")
        + ". Steps of the clips amortised and none that do not measure count with the norms last "
        "measured. " + " ".join(explained),
        alt=alt,
        svg=to_svg(drawing, "clipping", alt),
    )


def _abreast(place: int, of: int) -> slice:
    """The columns of the grid that one of several panels abreast takes."""
    width = GRID_COLUMNS // of
    return slice(place * width, (place + 1) * width)


def _draw_norms(axes: Axes, method: MethodRuns, title_width: int) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    plain(axes)
    for name, (norm, style) in NORMS.items():
        epochs = _epochs(method, norm)
        draw_band(axes, epochs, _band(method, norm, epochs), style, name)
    axes.set(yscale="log", xlabel="epoch")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(fill(method.name, title_width), fontsize="medium")


def _draw_share(axes: Axes, methods: Sequence[MethodRuns], name: str) -> None:
    """A share in percent, means over the seeds alone: so many bands would hide each other."""
    plain(axes)
    share, _ = SHARES[name]
    styles = styled(method.name for method in methods)
    for method in methods:
        epochs = _epochs(method, share)
        mean = tuple(100 * value for value in _band(method, share, epochs).mean)
        if epochs:
            draw_band(axes, epochs, Band(mean, mean, mean), styles[method.name], method.name)
    axes.set(xlabel="epoch", ylabel="SVDs, %")
    axes.set_ylim(bottom=0)
    axes.set_title(name, fontsize="medium")


def _occurs(method: MethodRuns, share: Quantity) -> bool:
    """Whether a share was ever above 0 in a row."""
    return any(share(record) for run in method.runs for record in run.records)


def _epochs(method: MethodRuns, quantity: Quantity) -> list[int]:
    """The epochs, from 1, in which every run of a row has a quantity."""
    recorded = [
        {record.epoch + 1 for record in run.records if quantity(record) is not None}
        for run in method.runs
    ]
    return sorted(set.intersection(*recorded))


def _band(method: MethodRuns, quantity: Quantity, epochs: Sequence[int]) -> Band:
    """A quantity over the seeds of a row, in those epochs."""
    curves = []
    for run in method.runs:
        values = {record.epoch + 1: quantity(record) for record in run.records}
        curves.append([values[epoch] or 0.0 for epoch in epochs])
    return band_of(curves)
