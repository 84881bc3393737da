"""Helpers for figures: line styles, axes, legends, and conversion to inline SVG for the page."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from svdistill.common import Table

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


# The colours of Okabe and Ito, which colour-blind readers can distinguish, except their yellow,
# which is hardly visible on white. `to_svg` turns black into the page's text colour.
BLACK: Final = "#000000"
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#808080"
OLIVE: Final = "#999933"  # from Paul Tol's muted colours

NUMBERED: Final = re.compile(r"[\w.]+_\d+")  # ids that matplotlib generates and nothing refers to

FONTS: Final = re.compile(r"'DejaVu Sans'[^;]*")

HUNDREDTHS: Final = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it, in sentences.
        svg: the picture as an SVG element for the page.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """Tables and figures on one comparison, or on all comparisons with the same data set.

    Attributes:
        title: the title of the comparison, or the name of the data set.
        tables: the tables, shown above the figures, each with its notes below it.
        figures: the figures.
    """

    title: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class LineStyle:
    """Colour, marker and dashes of a line; all `LINE_STYLES` differ in both colour and marker."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]


ALONE: Final = LineStyle(BLACK, "", ":")

LINE_STYLES: Final = (
    LineStyle(BLUE, "o", "-"),
    LineStyle(VERMILION, "s", "--"),
    LineStyle(GREEN, "^", "-."),
    LineStyle(PURPLE, "D", "-"),
    LineStyle(ORANGE, "v", "--"),
    LineStyle(SKY, "P", "-."),
    LineStyle(GREY, "X", "-"),
    LineStyle(OLIVE, "*", "--"),
)

# If there are more lines than styles, the styles are repeated with these dashes.
FURTHER_DASHES: Final = ((0, (1, 1)), (0, (6, 1, 1, 1)))

LEVEL_DASHES: Final = ((8, 3), (8, 3, 2, 3), (3, 3), (12, 2, 2, 2, 2, 2))


def styled(names: Iterable[str]) -> dict[str, LineStyle]:
    """Assign a line style to each row name, in order; "student alone" always gets the same style.

    Example:
        >>> [style.colour for style in styled(["student alone", "SVD"]).values()]
        ['#000000', '#0072B2']
    """
    styles = dict.fromkeys(names, ALONE)
    for place, name in enumerate([name for name in styles if name != "student alone"]):
        further, place_in_set = divmod(place, len(LINE_STYLES))
        styles[name] = LINE_STYLES[place_in_set]
        if further:
            dashes = FURTHER_DASHES[(further - 1) % len(FURTHER_DASHES)]
            styles[name] = replace(styles[name], dashes=dashes)
    return styles


def new_drawing(width: float, height: float) -> Drawing:
    """Create an empty drawing with a size in inches; a width of 10 fills the page."""
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout="constrained")


def plain(axes: Axes) -> None:
    """Style axes plainly: only the left and bottom spines, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=BLACK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_band(
    axes: Axes,
    places: Sequence[float],
    points: Sequence[Sequence[float]],
    style: LineStyle,
    label: str,
) -> None:
    """Draw a line through the mean of the values at each place, and a band around all values.

    Args:
        axes: the axes to draw in.
        places: horizontal positions.
        points: the values at each position, such as one for each seed.
        style: the style of the line; the band has its colour.
        label: the line's name in the legend.
    """
    axes.plot(
        places,
        [statistics.fmean(values) for values in points],
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker or ("" if len(places) > 1 else "."),
        markersize=5,
        markevery=max(1, len(places) // 8),
        label=label,
    )
    lows, highs = [min(values) for values in points], [max(values) for values in points]
    if lows != highs:
        axes.fill_between(places, lows, highs, color=style.colour, alpha=0.15, linewidth=0)


def draw_level(axes: Axes, height: float, label: str, place: int = 0) -> None:
    """Draw a horizontal black line; `place` numbers such lines and chooses their dashes."""
    dashes = LEVEL_DASHES[place % len(LEVEL_DASHES)]
    axes.axhline(height, color=BLACK, linewidth=1.2, dashes=dashes, label=label)


def epoch_axis(axes: Axes) -> None:
    """Label the horizontal axis "epoch", with ticks at whole epochs only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True, min_n_ticks=1)
    )


def log_axis(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with tick labels in plain decimal notation."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def legend(drawing: Drawing, of: Iterable[Axes], columns: int) -> None:
    """Add a legend below all panels, in which each label of the panels in `of` occurs once."""
    entries: dict[str, Artist] = {}
    for axes in of:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        drawing.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=columns,
            handlelength=2.6,
            frameon=False,
        )


def to_svg(drawing: Drawing, alt: str) -> str:
    """Convert a drawing to an SVG element for an HTML page.

    Text stays text, black becomes `currentColor`, the background is transparent, and the width is
    that of the page. The same drawing with the same alternative text gives the same SVG; drawings
    with different alternative texts have different ids, so that one page can hold them.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        # An SVG element's style sheet would apply to the whole page.
        for child in [child for child in element if _local(child.tag) in ("metadata", "style")]:
            element.remove(child)
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {
            key: _adapted(key, value)
            for key, value in attributes.items()
            if not (key == "id" and NUMBERED.fullmatch(value))
        }
        # Remove matplotlib's indentation.
        element.text, element.tail = (
            part if part and part.strip() else None for part in (element.text, element.tail)
        )
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "width": "100%",
        "role": "img",
        "aria-label": alt,
        "fill": "currentColor",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """The name of a tag or attribute without its namespace, which inline SVG does not need."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str) -> str:
    """Adapt an attribute's value: the page's text colour and font, numbers with two decimals."""
    if key == "href":
        return "".join(value.split())  # a heat map's picture, in lines of base64
    value = FONTS.sub("system-ui", value.replace(BLACK, "currentColor"))
    if key != "transform":  # in a heat map it is the size of a cell, which needs all its digits
        value = HUNDREDTHS.sub(r"\1", value)
    return " ".join(value.split())
