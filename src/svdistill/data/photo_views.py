"""Augmentation of photographs: random resized crops with colour jitter or TrivialAugment.

All operations work on batches of images with values 0 to 255. All geometric changes of an image are
combined into one affine map, so that its pixels are interpolated only once.

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

# Number of random numbers that a view uses.
DRAWS: Final = 8

# Smallest share of an image's area that a crop keeps, and the largest ratio of its sides.
LEAST_AREA: Final = 0.25
WIDEST_RATIO: Final = 4 / 3

# Brightness, contrast and saturation are scaled by 1 - JITTER to 1 + JITTER.
JITTER: Final = 0.4

# TrivialAugment: the number of levels of strength, from 0 on, and the change at the greatest one.
LEVELS: Final = 31
WIDEST_SHEAR: Final = 0.99
WIDEST_SHIFT: Final = 32 / 224  # as a share of the image's side
WIDEST_TURN: Final = math.radians(135)
WIDEST_FACTOR: Final = 0.99

SHEAR_X, SHEAR_Y, SHIFT_X, SHIFT_Y, TURN = range(1, 6)  # operation 0 changes nothing


def jittered_views(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Random resized crop, horizontal flip, then changed brightness, contrast and saturation.

    Images and returned views are ``[B, 3, S, S]``, float32 in 0 to 255; the random numbers are
    ``[B, DRAWS]``, float64 in [0, 1), on the CPU. The second result, ``[B, 1, S, S]``, is True for
    pixels of a view that lie outside of its image.
    """
    views, outside = _sampled(images, _crops(numbers))
    factors = 1 + JITTER * (2 * numbers[:, 5:] - 1)
    for number, change in enumerate((brightness, contrast, saturation)):
        views = change(views, factors[:, number])
    return views, outside


def trivial_views(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Random resized crop, horizontal flip, then one operation of TrivialAugment.

    The operation is one of 14 with equal probability: no change, two shears, two shifts, a
    rotation, brightness, saturation, contrast, sharpness, posterize, solarize, autocontrast,
    equalize. All levels of strength are equally likely too. A shift is up to a seventh of the side.

    Arguments and results are those of `jittered_views`.
    """
    operations = (numbers[:, 5] * (TURN + 1 + len(COLOURS))).long()
    strengths = (numbers[:, 6] * LEVELS).floor() / (LEVELS - 1)
    signed = torch.where(numbers[:, 7] < 0.5, -strengths, strengths)
    views, outside = _sampled(images, _moved(_crops(numbers), operations, signed))
    views = views.round_()
    # The random numbers are on the CPU, so that finding the images that an operation changes does
    # not synchronise with the device.
    for number, change in enumerate(COLOURS, start=TURN + 1):
        rows = (operations == number).nonzero()[:, 0]
        if len(rows):
            places = rows.to(views.device, non_blocking=True)
            views.index_copy_(0, places, change(views.index_select(0, places), signed[rows]))
    return views, outside


def _crops(numbers: Tensor) -> Tensor:
    """Return affine maps ``[B, 2, 3]`` from positions in a view to the image, both -1 to 1."""
    area = LEAST_AREA + (1 - LEAST_AREA) * numbers[:, 1]
    # The aspect ratio is uniform in its logarithm, and such that the crop fits into the image.
    widest = (-area.log()).clamp(max=math.log(WIDEST_RATIO))
    ratio = ((2 * numbers[:, 2] - 1) * widest).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    x, y = (1 - width) * (2 * numbers[:, 3] - 1), (1 - height) * (2 * numbers[:, 4] - 1)
    mirrored = torch.where(numbers[:, 0] < 0.5, -width, width)
    none = torch.zeros_like(x)
    return torch.stack([mirrored, none, x, none, height, y], dim=1).view(-1, 2, 3)


def _moved(crops: Tensor, operations: Tensor, signed: Tensor) -> Tensor:
    """Combine the affine maps of crops with a shear, shift or rotation of their content."""

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
    """Sample images bilinearly through affine maps; also return which pixels lie outside."""
    size = images.shape[-1]
    maps = maps.to(images.device, torch.float32, non_blocking=True)
    along = (2 * torch.arange(size, device=images.device) + 1) / size - 1
    # Not F.affine_grid, whose matrix product may round differently depending on the batch size.
    places = [
        maps[:, axis, 0, None, None] * along
        + maps[:, axis, 1, None, None] * along[:, None]
        + maps[:, axis, 2, None, None]
        for axis in range(2)
    ]
    grid = torch.stack(places, dim=-1)
    outside = (grid.abs() > 1).any(dim=-1)[:, None]
    # Border padding: near the border the outermost pixels are repeated, as in a resized crop.
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return views, outside


def _blended(images: Tensor, towards: Tensor | float, factors: Tensor) -> Tensor:
    """Return ``towards + factor * (image - towards)``, with one factor per image, ``[B]``."""
    scale = factors.to(images.device, torch.float32, non_blocking=True)[:, None, None, None]
    return ((images - towards) * scale + towards).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * 0.299 + green * 0.587 + blue * 0.114).round_()


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply all colour values of each image by its factor."""
    return _blended(images, 0.0, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the difference of each pixel from the image's mean grey by the image's factor."""
    # The grey values are integers, whose sum in float64 is exact in any order of summation.
    mean = _grey(images).double().mean(dim=(1, 2, 3), keepdim=True).round().float()
    return _blended(images, mean, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the difference of each pixel from its own grey value by the image's factor."""
    return _blended(images, _grey(images), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the difference from a smoothed image by a factor; border pixels do not change."""
    inner = images[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    # The sum over 3x3 pixels, with the middle one counted five times: 13 terms.
    sums = F.avg_pool2d(images, 3, stride=1, divisor_override=1) + 4 * inner
    smooth[:, :, 1:-1, 1:-1] = (sums / 13).round_()
    return _blended(images, smooth, factors)


def posterized(images: Tensor, signed: Tensor) -> Tensor:
    """Keep only the leading 8 to 2 bits of each colour value, fewer with greater strength."""
    steps = (2 ** (6 * signed.abs()).round()).to(images.device, torch.float32, non_blocking=True)
    steps = steps[:, None, None, None]
    return (images / steps).floor_() * steps


def solarized(images: Tensor, signed: Tensor) -> Tensor:
    """Invert colour values from a limit on, which falls from 256 to 0 with greater strength."""
    limits = (256 * (1 - signed.abs())).to(images.device, torch.float32, non_blocking=True)
    return torch.where(images >= limits[:, None, None, None], 255 - images, images)


def stretched(images: Tensor, _signed: Tensor) -> Tensor:
    """Stretch the values of each channel to the full range of 0 to 255 (autocontrast)."""
    low, high = (end(dim=(2, 3), keepdim=True) for end in (images.amin, images.amax))
    return torch.where(high > low, (images - low) * (255 / (high - low).clamp(min=1)), images)


def equalized(images: Tensor, _signed: Tensor) -> Tensor:
    """Equalise the histogram of each channel: all values become about equally frequent."""
    values = images.long().flatten(2)
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, values * 0 + 1)
    last = counts.gather(2, values.amax(dim=2, keepdim=True))
    steps = (values.shape[2] - last) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((below + steps // 2) // steps.clamp(min=1)).clamp_(max=255)
    return torch.where(steps > 0, table.gather(2, values), values).view_as(images).float()


def _scaled(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Turn an operation that takes a factor into one that takes a signed strength."""
    return lambda images, signed: change(images, 1 + WIDEST_FACTOR * signed)


COLOURS: Final = (
    *map(_scaled, (brightness, saturation, contrast, sharpness)),
    *(posterized, solarized, stretched, equalized),
)
