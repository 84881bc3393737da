"""Figures of feature maps: singular values and distillation feature vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch.nn.functional as F
from torch import Tensor

from svdistill.losses import reads
from svdistill.report.feature_maps import Analysis, PairMaps, Spectrum, TapSpectra
from svdistill.report.figure import (
    BLACK,
    BLUE,
    VERMILION,
    Band,
    Figure,
    LineStyle,
    draw_band,
    legend,
    new_drawing,
    plain,
    shortened,
    to_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.image import AxesImage

TEACHER: Final = LineStyle(BLACK, "", ":")

BEFORE: Final = LineStyle(VERMILION, "", "--")

AFTER: Final = LineStyle(BLUE, "", "-")

SMALLEST: Final = 1e-3  # relative to the largest value; about the resolution of float32

PANELS_ABREAST: Final = 4


def spectra_figure(analysis: Analysis) -> Figure:
    """Draw the singular values of every tap, relative to the largest."""
    taps = analysis.spectra
    rows = -(-len(taps) // PANELS_ABREAST)
    columns = min(PANELS_ABREAST, len(taps))
    drawing = new_drawing(10, 2.9 * rows + 0.5)
    panels = drawing.subplots(rows, columns, sharey=True, squeeze=False).flat
    for place, (axes, tap) in enumerate(zip(panels, taps, strict=False)):
        plain(axes)
        for name, (spectrum, style) in _spectra(tap).items():
            _draw_spectrum(axes, spectrum, style, name)
        axes.set_title(shortened(tap.tap), fontsize="medium")
        axes.set(xscale="log", yscale="log", xlabel="index of the value", ylim=(SMALLEST, 1.3))
        longest = max(len(spectrum.mean) for spectrum, _ in _spectra(tap).values())
        places = [4**power for power in range(6) if 4**power <= longest]
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
        if longest == 1:
            axes.text(0.5, 0.5, "one value only", ha="center", transform=axes.transAxes)
        if place % columns == 0:
            axes.set_ylabel("singular value over the largest")
    for axes in list(panels)[len(taps) :]:
        axes.set_visible(False)
    legend(drawing, drawing.axes[:1], columns=3)
    seconds = "; ".join(
        f"{tap.tap}: "
        + ", ".join(f"{name} {_second(spectrum)}" for name, (spectrum, _) in _spectra(tap).items())
        for tap in taps
    )
    alt = f"Singular values over the largest, {analysis.title}. The second value: {seconds}."
    return to_figure(
        drawing,
        "spectra",
        title=f"Spectra of the taps, {analysis.title}",
        caption=f"Mean over {analysis.images} test images; the bands hold the middle 80 % of them. "
        + _closeness(analysis),
        alt=alt,
    )


def _spectra(tap: TapSpectra) -> dict[str, tuple[Spectrum, LineStyle]]:
    """The available spectra, by the names of their networks."""
    every = {
        "teacher": (tap.teacher, TEACHER),
        "student before": (tap.before, BEFORE),
        "student after": (tap.after, AFTER),
    }
    return {name: (one, style) for name, (one, style) in every.items() if one is not None}


def _draw_spectrum(axes: Axes, spectrum: Spectrum, style: LineStyle, label: str) -> None:
    lines = (spectrum.mean, spectrum.low, spectrum.high)
    band = Band(*(tuple(line.clamp_min(SMALLEST / 10).tolist()) for line in lines))
    draw_band(axes, range(1, len(band.mean) + 1), band, style, label)


def _closeness(analysis: Analysis) -> str:
    """The share of images in which the gradient of the SVD loss would be damped."""
    if not reads(analysis.run.config["loss"], "gradient"):
        return ""
    shares = [
        f"{tap.tap}, {name} {spectrum.close:.1%}"
        for tap in analysis.spectra
        for name, (spectrum, _) in _spectra(tap).items()
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


LARGEST_SIDE: Final = 96  # cells on a side of a heat map

LABEL_LENGTH: Final = 16  # characters beside a heat map


def maps_figure(analysis: Analysis) -> Figure | None:
    """Draw the distillation feature vectors of neighbouring taps as heat maps.

    Returns:
        The figure; None if there are none, because teacher and student differ in channels.
    """
    if not analysis.maps:
        return None
    columns = [*_drawn_maps(analysis.maps[0]), *_differences(analysis.maps[0])]
    drawing = new_drawing(10, 2.2 * len(analysis.maps) + 0.3)
    rows = drawing.subplots(len(analysis.maps), len(columns), squeeze=False)
    for panels, pair in zip(rows, analysis.maps, strict=True):
        _draw_pair(drawing, panels, pair)
    for axes, title in zip(rows[0], columns, strict=True):
        axes.set_title(title, fontsize="medium")
    distances = "; ".join(
        f"{pair.front} to {pair.back}: "
        + ", ".join(f"{name} {_squares(values)}" for name, values in _differences(pair).items())
        for pair in analysis.maps
    )
    alt = (
        f"Heat maps of the distillation feature vectors, {analysis.title}. Sum of the squared "
        f"differences from the teacher: {distances}."
    )
    return to_figure(
        drawing,
        "maps",
        title=f"How neighbouring taps relate, {analysis.title}",
        caption="Distillation feature vectors of the first singular vectors: channels of the front "
        f"tap against channels of the back tap, mean over {analysis.images} test images. In all "
        "pictures of a row the channels are sorted by the teacher's vectors, and neighbours "
        f"averaged if there are more than {LARGEST_SIDE}. Distillation makes the differences "
        "from the teacher small; below them, the sum of the squares of all entries.",
        alt=alt,
    )


def _drawn_maps(pair: PairMaps) -> dict[str, Tensor]:
    every = {"teacher": pair.teacher, "student before": pair.before, "student after": pair.after}
    return {name: values for name, values in every.items() if values is not None}


def _differences(pair: PairMaps) -> dict[str, Tensor]:
    """The differences of the students' maps from the teacher's."""
    every = {"before − teacher": pair.before, "after − teacher": pair.after}
    return {name: values - pair.teacher for name, values in every.items() if values is not None}


def _draw_pair(drawing: Drawing, panels: Sequence[Axes], pair: PairMaps) -> None:
    """A row of heat maps: the networks' on one scale, their differences on another."""
    maps = [_sorted(values, pair) for values in _drawn_maps(pair).values()]
    own, others = panels[: len(maps)], panels[len(maps) :]
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    differences = [values - maps[0] for values in maps[1:]]
    reach = max(float(difference.abs().max()) for difference in differences) or 1.0
    for axes, values in zip(own, maps, strict=True):
        image = _show(axes, values, "cividis", low, high)
        axes.set_xlabel(f"{shortened(pair.back, LABEL_LENGTH)}, {pair.teacher.shape[1]}")
    drawing.colorbar(image, ax=own, pad=0.02, aspect=14)
    for axes, values, whole in zip(others, differences, _differences(pair).values(), strict=True):
        image = _show(axes, values, "PuOr", -reach, reach)
        axes.set_xlabel(f"squares: {_squares(whole)}")
    drawing.colorbar(image, ax=others, pad=0.03, aspect=14)
    panels[0].set_ylabel(f"{shortened(pair.front, LABEL_LENGTH)}\n{len(pair.teacher)} channels")


def _show(axes: Axes, values: Tensor, colours: str, low: float, high: float) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(
        values.numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none"
    )


def _sorted(values: Tensor, pair: PairMaps) -> Tensor:
    """The channels in the teacher's order, neighbours averaged if there are too many."""
    ordered = values[pair.front_order][:, pair.back_order]
    front, back = (min(side, LARGEST_SIDE) for side in ordered.shape)
    return F.adaptive_avg_pool2d(ordered[None], (front, back))[0]


def _squares(difference: Tensor) -> str:
    return f"{float(difference.square().sum()):.2g}"
