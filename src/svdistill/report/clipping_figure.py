"""Gradient norms by epoch, before and after clipping, and how the decompositions went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Final

from svdistill.report.bands import Band, band_of
from svdistill.report.comparisons import MethodRuns
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
from svdistill.report.grouping import compare
from svdistill.report.runs import Run
from svdistill.training.epoch_record import EpochRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

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
