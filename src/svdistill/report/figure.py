"""Figures for a web page: inline SVG that takes the page's text colour, on light and on dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from svdistill.report.statistics import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


# Okabe and Ito's colours, told apart by colour-blind people, without their yellow, which white
# pages swallow. Black becomes the page's text colour.
BLACK: Final = "#000000"

BLUE: Final = "#0072B2"

VERMILION: Final = "#D55E00"

GREEN: Final = "#009E73"

PURPLE: Final = "#CC79A7"

ORANGE: Final = "#E69F00"

SKY: Final = "#56B4E9"

GREY: Final = "#808080"


NUMBERED: Final = re.compile(r"[\w.]+_\d+")  # ids that matplotlib gives and nothing refers to

FAMILIES: Final = re.compile(r"'DejaVu Sans'[^;]*")

HUNDREDTHS: Final = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        title: what is shown, in a few words.
        caption: how to read it, in plain sentences.
        alt: what a reader who does not see it should know.
        svg: the picture, to be put into a page as it is.
    """

    title: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class LineStyle:
    """How a line looks: told apart by marker and dashes where colours cannot be."""

    colour: str
    marker: str
    dashes: str


ALONE: Final = LineStyle(BLACK, "", ":")

LINE_STYLES: Final = (
    LineStyle(BLUE, "o", "-"),
    LineStyle(VERMILION, "s", "--"),
    LineStyle(GREEN, "^", "-"),
    LineStyle(PURPLE, "D", "--"),
    LineStyle(ORANGE, "v", "-"),
    LineStyle(SKY, "P", "--"),
    LineStyle(GREY, "X", "-"),
)


def styled(names: Iterable[str]) -> dict[str, LineStyle]:
    """A style for each row by its place; students alone look the same in every figure.

    Example:
        >>> [style.colour for style in styled(["student alone", "SVD"]).values()]
        ['#000000', '#0072B2']
    """
    styles = dict.fromkeys(names, ALONE)
    taught = (name for name in styles if name != "student alone")
    return styles | dict(zip(taught, cycle(LINE_STYLES), strict=False))


def new_drawing(width: float, height: float) -> Drawing:
    """An empty drawing, in inches; 10 fill the width of a page."""
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout="constrained")


def plain(axes: Axes) -> None:
    """Two spines and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=BLACK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_band(
    axes: Axes, places: Sequence[float], band: Band, style: LineStyle, label: str
) -> None:
    """A line through the means, and a band from the lowest to the highest."""
    axes.plot(
        places,
        band.mean,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker,
        markersize=5,
        markevery=max(1, len(places) // 8),
        label=label,
    )
    if band.lowest != band.highest:
        axes.fill_between(
            places, band.lowest, band.highest, color=style.colour, alpha=0.15, linewidth=0
        )


def shortened(path: str, length: int = 26) -> str:
    """The end of a module's path, which tells it from others, where all of it is too long.

    Example:
        >>> shortened("encoder.stages.0", length=10)
        '….stages.0'
    """
    return path if len(path) <= length else f"…{path[1 - length :]}"


def to_svg(drawing: Drawing, name: str, alt: str) -> str:
    """Turn a drawing into SVG that stands in an HTML page.

    Text stays text, black becomes `currentColor`, the background is left out, the width is the
    page's. Ids begin with the name and a digest of the picture, so that no two pictures of a page
    share one. The same drawing gives the same text.

    Args:
        drawing: made by `new_drawing`.
        name: letters, digits and hyphens.
        alt: what the picture shows, for readers who do not see it.

    Returns:
        One `<svg>` element, without prolog.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    root = ElementTree.fromstring(text)
    prefix = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    for element in root.iter():
        # Its style sheet would rule the whole page.
        for child in [child for child in element if _local(child.tag) in ("metadata", "style")]:
            element.remove(child)
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {
            key: _adapted(key, value, prefix)
            for key, value in attributes.items()
            if not (key == "id" and NUMBERED.fullmatch(value))
        }
        # Indentation, of which matplotlib is fond.
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
    """A tag or attribute without its namespace, which inline SVG does not need."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, prefix: str) -> str:
    """An attribute as the page needs it: own ids, the page's colour and font, no idle digits."""
    if key == "id":
        return prefix + value
    if key == "href":
        return f"#{prefix}{value[1:]}" if value.startswith("#") else "".join(value.split())
    if key == "style":
        value = FAMILIES.sub("system-ui", value.replace(BLACK, "currentColor"))
    if key != "transform":  # a heat map's is the size of a cell, of which there are many
        value = HUNDREDTHS.sub(r"\1", value)
    return " ".join(value.replace("url(#", f"url(#{prefix}").split())
