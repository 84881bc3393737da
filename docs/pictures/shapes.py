"""What several pictures are made of: heat maps, arrows, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from svdistill.report.figure import BLACK

Point = Sequence[float] | Tensor


def heat(
    axes: Axes,
    values: Tensor,
    title: str,
    colours: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """A matrix as colours, without ticks; colours that diverge do so from 0."""
    if limits is None and colours.startswith("RdBu"):
        most = float(values.abs().max())
        limits = (-most, most)
    low, high = limits or (None, None)
    shown = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return shown


def arrow(axes: Axes, start: Point, end: Point, colour: str, text: str, dashes: str = "-") -> None:
    """An arrow with its name beside the middle."""
    (x0, y0), (x1, y1) = ([float(value) for value in point] for point in (start, end))
    style = {"arrowstyle": "-|>", "color": colour, "linestyle": dashes, "linewidth": 1.8}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
    if text:
        where = {"xytext": (5, -9), "textcoords": "offset points"}
        axes.annotate(text, ((x0 + x1) / 2, (y0 + y1) / 2), fontsize=9, **where)


def box(axes: Axes, middle: Point, text: str, colour: str = BLACK, **look: Any) -> None:
    """A box with rounded corners around a few words."""
    x, y = (float(value) for value in middle)
    width, height = look.get("size", (1.0, 0.6))
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=colour,
            alpha=0.14,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=look.get("fontsize", 9))
