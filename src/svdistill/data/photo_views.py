"""Views of photographs: random resized crops with changed colours, or with TrivialAugment.

All operations are batched over images of 0 to 255. What a view shows of an image is one affine map,
so that its pixels are interpolated once.

Sources: the crops of Szegedy et al., "Going Deeper with Convolutions", 2015; Müller, Hutter,
"TrivialAugment", ICCV 2021, in its wide search space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

# Random numbers of a view.
DRAWS: Final = 8

# Share of the image that a crop keeps at least, and its widest ratio of width and height.
LEAST_AREA: Final = 0.25
WIDEST_RATIO: Final = 4 / 3

# Brightness, contrast and saturation are scaled by 1 - JITTER to 1 + JITTER.
JITTER: Final = 0.4

# The widest change of TrivialAugment, whose strength has 31 levels from 0 on.
LEVELS: Final = 31
WIDEST_SHEAR: Final = 0.99
WIDEST_SHIFT: Final = 32 / 224  # of the side
WIDEST_TURN: Final = math.radians(135)
WIDEST_FACTOR: Final = 0.99

SHEAR_X, SHEAR_Y, SHIFT_X, SHIFT_Y, TURN = range(1, 6)  # 0 changes nothing


def jittered_views(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Random resized crop, horizontal flip, then brightness, contrast and saturation.

    Images and views are ``[B, 3, S, S]``, float32 of 0 to 255; the random numbers ``[B, DRAWS]``,
    float64 in [0, 1), on the CPU. The second result, ``[B, 1, S, S]``, is True outside of an image.
    """
    views, outside = _sampled(images, _crops(numbers))
    factors = 1 + JITTER * (2 * numbers[:, 5:] - 1)
    for number, change in enumerate((brightness, contrast, saturation)):
        views = change(views, factors[:, number])
    return views, outside


def trivial_views(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Random resized crop, horizontal flip, then one operation of TrivialAugment.

    Each of 14 operations is as likely as the others, and each strength: no change, two shears, two
    shifts, a rotation, brightness, saturation, contrast, sharpness, fewer bits, inverted lights,
    stretched contrast, equalised histogram. A shift is up to a seventh of the side.

    Arguments and results are those of `jittered_views`.
    """
    operations = (numbers[:, 5] * (TURN + 1 + len(COLOURS))).long()
    strengths = (numbers[:, 6] * LEVELS).floor() / (LEVELS - 1)
    signed = torch.where(numbers[:, 7] < 0.5, -strengths, strengths)
    views, outside = _sampled(images, _moved(_crops(numbers), operations, signed))
    views = views.round_()
    # The draws are on the CPU, so that choosing images does not synchronise with the device.
    for number, change in enumerate(COLOURS, start=TURN + 1):
        rows = (operations == number).nonzero()[:, 0]
        if len(rows):
            places = rows.to(views.device, non_blocking=True)
            views.index_copy_(0, places, change(views.index_select(0, places), signed[rows]))
    return views, outside


def _crops(numbers: Tensor) -> Tensor:
    """Maps ``[B, 2, 3]`` from places in a view to places in the image, both -1 to 1."""
    area = LEAST_AREA + (1 - LEAST_AREA) * numbers[:, 1]
    # Uniform in its logarithm, within the ratios of which the crop fits into a square.
    widest = (-area.log()).clamp(max=math.log(WIDEST_RATIO))
    ratio = ((2 * numbers[:, 2] - 1) * widest).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    x, y = (1 - width) * (2 * numbers[:, 3] - 1), (1 - height) * (2 * numbers[:, 4] - 1)
    mirrored = torch.where(numbers[:, 0] < 0.5, -width, width)
    none = torch.zeros_like(x)
    return torch.stack([mirrored, none, x, none, height, y], dim=1).view(-1, 2, 3)


def _moved(crops: Tensor, operations: Tensor, signed: Tensor) -> Tensor:
    """The maps of crops whose content is then sheared, shifted or turned."""

    def of(operation: int, widest: float) -> Tensor:
        return torch.where(operations == operation, signed * widest, 0.0)

    angles = of(TURN, WIDEST_TURN)
    cos, sin = angles.cos(), angles.sin()
    shift_x, shift_y = of(SHIFT_X, 2 * WIDEST_SHIFT), of(SHIFT_Y, 2 * WIDEST_SHIFT)
    rows = [cos, of(SHEAR_X, WIDEST_SHEAR) - sin, shift_x]
    rows += [of(SHEAR_Y, WIDEST_SHEAR) + sin, cos, shift_y]
    moves = torch.stack(rows, dim=1).view(-1, 2, 3)
    sides, middles = crops[:, :, :2].sum(dim=2, keepdim=True), crops[:, :, 2]
    moves = sides * moves
    moves[:, :, 2] += middles
    return moves


def _sampled(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The images at the places of the maps, bilinear; and which pixels are outside of the image."""
    size = images.shape[-1]
    maps = maps.to(images.device, torch.float32, non_blocking=True)
    along = (2 * torch.arange(size, device=images.device) + 1) / size - 1
    # Not F.affine_grid: a matrix product may round otherwise in a batch of another size.
    places = [
        maps[:, axis, 0, None, None] * along
        + maps[:, axis, 1, None, None] * along[:, None]
        + maps[:, axis, 2, None, None]
        for axis in range(2)
    ]
    grid = torch.stack(places, dim=-1)
    outside = (grid.abs() > 1).any(dim=-1)[:, None]
    # A view that lies along the border repeats it, as a resized crop does.
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return views, outside


def _blended(images: Tensor, towards: Tensor | float, factors: Tensor) -> Tensor:
    """``towards + factor (image - towards)``, a factor ``[B]`` for each image."""
    scale = factors.to(images.device, torch.float32, non_blocking=True)[:, None, None, None]
    return ((images - towards) * scale + towards).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * 0.299 + green * 0.587 + blue * 0.114).round_()


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale all colours."""
    return _blended(images, 0.0, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the image's mean grey."""
    # Integers in float64: their sum is exact, whatever its order.
    mean = _grey(images).double().mean(dim=(1, 2, 3), keepdim=True).round().float()
    return _blended(images, mean, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from grey."""
    return _blended(images, _grey(images), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from a smoothed image; the border stays."""
    inner = images[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    # The sum of 9 neighbours, the middle counted five times.
    sums = F.avg_pool2d(images, 3, stride=1, divisor_override=1) + 4 * inner
    smooth[:, :, 1:-1, 1:-1] = (sums / 13).round_()
    return _blended(images, smooth, factors)


def posterized(images: Tensor, signed: Tensor) -> Tensor:
    """Keep 8 to 2 bits of each colour."""
    steps = (2 ** (6 * signed.abs()).round()).to(images.device, torch.float32, non_blocking=True)
    steps = steps[:, None, None, None]
    return (images / steps).floor_() * steps


def solarized(images: Tensor, signed: Tensor) -> Tensor:
    """Invert the colours from a limit on, 256 to 0."""
    limits = (256 * (1 - signed.abs())).to(images.device, torch.float32, non_blocking=True)
    return torch.where(images >= limits[:, None, None, None], 255 - images, images)


def stretched(images: Tensor, _signed: Tensor) -> Tensor:
    """Scale each channel to 0 to 255."""
    low, high = (end(dim=(2, 3), keepdim=True) for end in (images.amin, images.amax))
    return torch.where(high > low, (images - low) * (255 / (high - low).clamp(min=1)), images)


def equalized(images: Tensor, _signed: Tensor) -> Tensor:
    """Spread the values of each channel such that all are about as frequent."""
    values = images.long().flatten(2)
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, values * 0 + 1)
    last = counts.gather(2, values.amax(dim=2, keepdim=True))
    steps = (values.shape[2] - last) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((below + steps // 2) // steps.clamp(min=1)).clamp_(max=255)
    return torch.where(steps > 0, table.gather(2, values), values).view_as(images).float()


def _scaled(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An operation on a signed strength, from one on a factor."""
    return lambda images, signed: change(images, 1 + WIDEST_FACTOR * signed)


COLOURS: Final = (
    *map(_scaled, (brightness, saturation, contrast, sharpness)),
    *(posterized, solarized, stretched, equalized),
)
