"""Picture of an analysis: the spectra of every tap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svdistill.losses.registry import reads
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
    shortened,
    to_svg,
)
from svdistill.report.spectra import Analysis, Spectrum, TapSpectra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEACHER: Final = LineStyle(BLACK, "", ":")
BEFORE: Final = LineStyle(VERMILION, "", "--")
AFTER: Final = LineStyle(BLUE, "", "-")
SMALLEST: Final = 1e-3  # a value over the largest; float32 resolves about as much
PANELS_ABREAST: Final = 4


def spectra_figure(analysis: Analysis) -> Figure:
    """Draw the singular values of every tap over the largest.

    Args:
        analysis: of a run.

    Returns:
        The figure.
    """
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
        axes.set(xscale="log", yscale="log", xlabel="place of the value", ylim=(SMALLEST, 1.3))
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
    drawing.legend(
        *drawing.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    seconds = "; ".join(
        f"{tap.tap}: "
        + ", ".join(f"{name} {_second(spectrum)}" for name, (spectrum, _) in _spectra(tap).items())
        for tap in taps
    )
    alt = f"Singular values over the largest, {analysis.title}. The second value: {seconds}."
    return Figure(
        title=f"Spectra of the taps, {analysis.title}",
        caption=f"Mean over {analysis.images} test images; the bands hold the middle 80 % of them. "
        + _closeness(analysis),
        alt=alt,
        svg=to_svg(drawing, "spectra", alt),
    )


def _spectra(tap: TapSpectra) -> dict[str, tuple[Spectrum, LineStyle]]:
    """Those that there are, by the names of their networks."""
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
    """In how many images a gradient would be bounded, named where there are any.

    Only the SVD loss takes so many values.
    """
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
