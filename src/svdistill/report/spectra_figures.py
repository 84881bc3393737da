"""Pictures of an analysis: the spectra of every tap, and how neighbouring taps relate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch.nn.functional as F
from torch import Tensor

from svdistill.report.bands import Band
from svdistill.report.figure import (
    BLACK,
    BLUE,
    VERMILION,
    Figure,
    LineStyle,
    draw_band,
    new_drawing,
    plain,
    to_svg,
)
from svdistill.report.spectra import Analysis, PairMaps, Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.image import AxesImage

TEACHER: Final = LineStyle(BLACK, "", ":")
BEFORE: Final = LineStyle(VERMILION, "", "--")
AFTER: Final = LineStyle(BLUE, "", "-")
SMALLEST: Final = 1e-3  # a value over the largest; float32 resolves about as much
LARGEST_SIDE: Final = 96  # cells of a heat map
COLUMNS: Final = (
    "teacher",
    "student before",
    "student after",
    "before − teacher",
    "after − teacher",
)


def spectra_figure(analysis: Analysis) -> Figure:
    """Draw the singular values of every tap over the largest.

    Args:
        analysis: of a run.

    Returns:
        The figure.
    """
    taps = analysis.spectra
    drawing = new_drawing(10, 3.4)
    panels = drawing.subplots(1, len(taps), sharey=True, squeeze=False)[0]
    for axes, tap in zip(panels, taps, strict=True):
        plain(axes)
        _draw_spectrum(axes, tap.teacher, TEACHER, "teacher")
        _draw_spectrum(axes, tap.before, BEFORE, "student before")
        _draw_spectrum(axes, tap.after, AFTER, "student after")
        axes.set_title(tap.tap, fontsize="medium")
        axes.set(xscale="log", yscale="log", xlabel="place of the value", ylim=(SMALLEST, 1.3))
        places = [4**power for power in range(5) if 4**power <= len(tap.after.mean)]
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
    panels[0].set_ylabel("singular value over the largest")
    drawing.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    seconds = "; ".join(
        f"{tap.tap} {_second(tap.before)} before, {_second(tap.after)} after, teacher "
        f"{_second(tap.teacher)}"
        for tap in taps
    )
    alt = f"Singular values over the largest, {_run_of(analysis)}. The second value: {seconds}."
    return Figure(
        title=f"Spectra of the taps, {_run_of(analysis)}",
        caption=f"Mean over {analysis.images} test images; the bands hold the middle 80 % of them. "
        + _closeness(analysis),
        alt=alt,
        svg=to_svg(drawing, "spectra", alt),
    )


def maps_figure(analysis: Analysis) -> Figure | None:
    """Draw the distillation feature vectors of neighbouring taps as heat maps.

    Args:
        analysis: of a run.

    Returns:
        The figure; None where teacher and student differ in channels.
    """
    if not analysis.maps:
        return None
    drawing = new_drawing(10, 2.2 * len(analysis.maps) + 0.3)
    rows = drawing.subplots(len(analysis.maps), len(COLUMNS), squeeze=False)
    for panels, pair in zip(rows, analysis.maps, strict=True):
        _draw_pair(drawing, panels, pair)
    for axes, title in zip(rows[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize="medium")
    distances = "; ".join(
        f"{pair.front} to {pair.back} {_squares(pair.before - pair.teacher)} before, "
        f"{_squares(pair.after - pair.teacher)} after"
        for pair in analysis.maps
    )
    alt = (
        f"Heat maps of the distillation feature vectors, {_run_of(analysis)}. Sum of the squared "
        f"differences from the teacher: {distances}."
    )
    return Figure(
        title=f"How neighbouring taps relate, {_run_of(analysis)}",
        caption="Distillation feature vectors of the first singular vectors: channels of the front "
        f"tap against channels of the back tap, mean over {analysis.images} test images. In all "
        "five pictures of a row the channels are sorted by the teacher's vectors, and neighbours "
        f"averaged where there are more than {LARGEST_SIDE}. The last two show what "
        "distillation is to make small; below them, the sum of the squares of all entries.",
        alt=alt,
        svg=to_svg(drawing, "maps", alt),
    )


def _draw_spectrum(axes: Axes, spectrum: Spectrum, style: LineStyle, label: str) -> None:
    lines = (spectrum.mean, spectrum.low, spectrum.high)
    band = Band(*(tuple(line.clamp_min(SMALLEST / 10).tolist()) for line in lines))
    draw_band(axes, range(1, len(band.mean) + 1), band, style, label)


def _draw_pair(drawing: Drawing, panels: Sequence[Axes], pair: PairMaps) -> None:
    """A row of heat maps: three on one scale, and two differences on another."""
    maps = [_sorted(values, pair) for values in (pair.teacher, pair.before, pair.after)]
    differences = [values - maps[0] for values in maps[1:]]
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    reach = max(float(difference.abs().max()) for difference in differences) or 1.0
    images = [
        _show(axes, m, "cividis", low, high) for axes, m in zip(panels[:3], maps, strict=True)
    ]
    images += [
        _show(axes, difference, "PuOr", -reach, reach)
        for axes, difference in zip(panels[3:], differences, strict=True)
    ]
    drawing.colorbar(images[0], ax=panels[:3], pad=0.02, aspect=14)
    drawing.colorbar(images[3], ax=panels[3:], pad=0.03, aspect=14)
    panels[0].set_ylabel(f"{pair.front}\n{len(pair.teacher)} channels")
    for axes in panels[:3]:
        axes.set_xlabel(f"{pair.back}, {pair.teacher.shape[1]}")
    for axes, student in zip(panels[3:], (pair.before, pair.after), strict=True):
        axes.set_xlabel(f"squares: {_squares(student - pair.teacher)}")


def _show(axes: Axes, values: Tensor, colours: str, low: float, high: float) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(
        values.numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none"
    )


def _sorted(values: Tensor, pair: PairMaps) -> Tensor:
    """The channels in the teacher's order, neighbours averaged where there are too many."""
    ordered = values[pair.front_order][:, pair.back_order]
    front, back = (min(side, LARGEST_SIDE) for side in ordered.shape)
    return F.adaptive_avg_pool2d(ordered[None], (front, back))[0]


def _closeness(analysis: Analysis) -> str:
    """In how many images a gradient would be bounded, named where there are any."""
    shares = [
        f"{tap.tap}, {name} {spectrum.close:.1%}"
        for tap in analysis.spectra
        for name, spectrum in (
            ("teacher", tap.teacher),
            ("student before", tap.before),
            ("student after", tap.after),
        )
        if spectrum.close > 0
    ]
    closeness = (
        f"of the {analysis.num_vectors + 1} leading values lie so close to each other, or the last "
        "of them to zero, that the gradient is damped"
    )
    if not shares:
        return f"In no image do any {closeness}."
    return f"Images in which some {closeness}: {'; '.join(shares)}."


def _second(spectrum: Spectrum) -> str:
    return f"{float(spectrum.mean[1]):.2f}" if len(spectrum.mean) > 1 else "none"


def _squares(difference: Tensor) -> str:
    return f"{float(difference.square().sum()):.2g}"


def _run_of(analysis: Analysis) -> str:
    run = analysis.run
    return f"{run.pair}, {run.row}, seed {run.summary.seed}"
