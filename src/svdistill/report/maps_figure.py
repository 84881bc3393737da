"""Picture of an analysis: how neighbouring taps relate, as heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch.nn.functional as F
from torch import Tensor

from svdistill.report.figure import Figure, new_drawing, shortened, to_svg
from svdistill.report.pair_maps import PairMaps
from svdistill.report.spectra import Analysis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.image import AxesImage

LARGEST_SIDE: Final = 96  # cells of a heat map
LABEL_LENGTH: Final = 16  # characters beside a heat map


def maps_figure(analysis: Analysis) -> Figure | None:
    """Draw the distillation feature vectors of neighbouring taps as heat maps.

    Args:
        analysis: of a run.

    Returns:
        The figure; None where there are none: teacher and student differ in channels.
    """
    if not analysis.maps:
        return None
    columns = [*_maps(analysis.maps[0]), *_differences(analysis.maps[0])]
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
    return Figure(
        title=f"How neighbouring taps relate, {analysis.title}",
        caption="Distillation feature vectors of the first singular vectors: channels of the front "
        f"tap against channels of the back tap, mean over {analysis.images} test images. In all "
        "pictures of a row the channels are sorted by the teacher's vectors, and neighbours "
        f"averaged where there are more than {LARGEST_SIDE}. Differences from the teacher are what "
        "distillation is to make small; below them, the sum of the squares of all entries.",
        alt=alt,
        svg=to_svg(drawing, "maps", alt),
    )


def _maps(pair: PairMaps) -> dict[str, Tensor]:
    every = {"teacher": pair.teacher, "student before": pair.before, "student after": pair.after}
    return {name: values for name, values in every.items() if values is not None}


def _differences(pair: PairMaps) -> dict[str, Tensor]:
    """From the teacher's."""
    every = {"before − teacher": pair.before, "after − teacher": pair.after}
    return {name: values - pair.teacher for name, values in every.items() if values is not None}


def _draw_pair(drawing: Drawing, panels: Sequence[Axes], pair: PairMaps) -> None:
    """A row of heat maps: the networks' on one scale, and the differences on another."""
    maps = [_sorted(values, pair) for values in _maps(pair).values()]
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
    """The channels in the teacher's order, neighbours averaged where there are too many."""
    ordered = values[pair.front_order][:, pair.back_order]
    front, back = (min(side, LARGEST_SIDE) for side in ordered.shape)
    return F.adaptive_avg_pool2d(ordered[None], (front, back))[0]


def _squares(difference: Tensor) -> str:
    return f"{float(difference.square().sum()):.2g}"
