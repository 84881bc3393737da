"""Random augmentation of batches of images, on their device and reproducible for each image.

A view is one randomly augmented version of an image. Its random numbers are a function of the
seed, the image's index and the view's number alone, so an image gets the same view in any batch
and on any device.

Source of the random number generator (SplitMix64): Steele, Lea, Flood, "Fast Splittable
Pseudorandom Number Generators", OOPSLA 2014; the constants are those of Vigna's
https://prng.di.unimi.it/splitmix64.c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, described, require_choice, require_count
from svdistill.data.photo_views import DRAWS, jittered_views, trivial_views

# Augmentations that interpolate pixels; their functions take images of 0 to 255.
INTERPOLATED: Final = {"photo": jittered_views, "trivial": trivial_views}

AUGMENTATIONS: Final = ("none", "crop_flip", "paper", *INTERPOLATED)

ROTATION_DEGREES: Final = 15.0

# Positions in an image are counted in 2^-16 of a pixel.
FRACTION_BITS: Final = 16

# A position outside of any image of fewer than 16,384 pixels a side.
NOWHERE: Final = -(1 << 30)

# Constants of SplitMix64, unsigned 64-bit words stored as int64 with the same bits. STEP is the
# golden ratio's fraction, made odd, so that counting in steps of it visits every word once.
STEP: Final = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND_FACTOR: Final = 0x94D049BB133111EB - (1 << 64)


class ViewDraws(NamedTuple):
    """The random parameters of the views of a batch.

    Attributes:
        flip: ``[B]``, bool: whether the image is mirrored left to right.
        radians: ``[B]``, float64: the angle by which the image is then rotated about its centre.
        down, right: ``[B]``, int64: offset of the crop from the centre of the padded image, in
            pixels.
    """

    flip: Tensor
    radians: Tensor
    down: Tensor
    right: Tensor


class Augmentation(nn.Module):
    """Normalise images per channel and return one randomly augmented view of each.

    ``view = crop(pad(rotate(flip((images / 255 - mean) / std))))``. Padding comes after
    normalising, so it fills in the mean colour. Pixels are copied, never interpolated, except in
    ``"photo"`` and ``"trivial"``.

    Args:
        name: ``"none"``; ``"crop_flip"``: horizontal flip, then pad and crop; ``"paper"``:
            horizontal flip, rotation by up to 15 degrees either way (nearest pixel), then pad
            and crop; ``"photo"``: random resized crop, horizontal flip, and random changes of
            brightness, contrast and saturation; ``"trivial"``: random resized crop, horizontal
            flip, and one random operation of TrivialAugment.
        image_size: height and width of the images; padding adds an eighth of it on each side.
        mean: mean of each of the 3 channels, in 0 to 1.
        std: standard deviation of each channel, in 0 to 1, above 0.

    Raises:
        ArgumentError: for an unknown name, or statistics that are not 3 usable numbers.

    Example:
        >>> augmentation = Augmentation("crop_flip", 16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        >>> views = augmentation(images, seed=7, indices=torch.arange(4), view=0)
        >>> tuple(views.shape), views.dtype, views.min().item()
        ((4, 3, 16, 16), torch.float32, -2.0)
        >>> third = augmentation(images[:1], seed=7, indices=torch.tensor([2]), view=0)
        >>> torch.equal(views[2:3], third)
        True

    Source:
        ``"paper"`` at 32x32 is the protocol of Lee, Kim and Song (ECCV 2018).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        require_choice("augmentation", name, AUGMENTATIONS)
        require_count("image_size", image_size, 8)
        self.name = name
        self.image_size = image_size
        # Constants of the data set, not trained: checkpoints leave them out.
        self.register_buffer("mean", _channels("mean", mean, 0.0), persistent=False)
        self.register_buffer("std", _channels("std", std, 1e-6), persistent=False)

    def extra_repr(self) -> str:
        """Show the settings in ``print(augmentation)``."""
        return f"{self.name!r}, image_size={self.image_size}"

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise uint8 images per channel without augmentation, as needed for evaluation.

        Args:
            images: ``[B, 3, H, W]``, uint8.

        Returns:
            ``[B, 3, H, W]``, float32, on the device of the images.

        Raises:
            ArgumentError: if the images have another dtype or shape.
        """
        self._require_images(images)
        return self._normalised(images.float())

    @torch.no_grad()
    def forward(self, images: Tensor, *, seed: int, indices: Tensor, view: int) -> Tensor:
        """Normalise the images and return one randomly augmented view of each.

        An image's view depends on the seed, the image's index and the view's number alone, not
        on the rest of the batch, the device or torch's global random state.

        Args:
            images: ``[B, 3, H, W]``, uint8.
            seed: 0 or more.
            indices: ``[B]``, int64: index of each image in its split, as in `Batch.indices`.
            view: number of the view, 0 or more; each number gives another random view.

        Returns:
            ``[B, 3, H, W]``, float32, on the device of the images.

        Raises:
            ArgumentError: if the images have another dtype or shape, if there is not one index
                per image, or if the seed or the view is negative.
        """
        require_count("seed", seed, 0)
        require_count("view", view, 0)
        self._require_images(images)
        if indices.dtype != torch.int64 or indices.shape != images.shape[:1]:
            raise ArgumentError(
                "indices",
                expected=f"int64 of shape [{len(images)}], a number for each image",
                got=described(indices),
                remedy="pass Batch.indices",
            )
        if self.name == "none":
            return self.normalise(images)
        if draw_views := INTERPOLATED.get(self.name):
            numbers = uniform(seed, view, indices.cpu(), DRAWS)
            drawn, beyond = draw_views(images.float().contiguous(), numbers)
            return self._normalised(drawn).masked_fill_(beyond, 0.0)
        draws = self.draw(seed, view, indices.to(images.device, non_blocking=True))
        sources, outside = source_pixels(draws, self.image_size)
        pixels = images.flatten(2).gather(2, sources[:, None].expand(-1, 3, -1))
        views = self.normalise(pixels.view(images.shape))
        return views.masked_fill_(outside.view(-1, 1, *images.shape[2:]), 0.0)

    def draw(self, seed: int, view: int, indices: Tensor) -> ViewDraws:
        """Return the random parameters that `forward` uses for views that are not interpolated."""
        numbers = uniform(seed, view, indices, 4).T
        turn = math.radians(ROTATION_DEGREES) if self.name == "paper" else 0.0
        pad = self.image_size // 8
        down, right = (numbers[2:] * (2 * pad + 1)).long() - pad
        return ViewDraws(numbers[0] < 0.5, (2 * numbers[1] - 1) * turn, down, right)

    def _normalised(self, images: Tensor) -> Tensor:
        """Normalise float32 images of 0 to 255 in place."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return images.div_(255).sub_(mean).div_(std)

    def _require_images(self, images: Tensor) -> None:
        shape = (3, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
            raise ArgumentError(
                "images",
                expected=f"uint8 of shape [B, {', '.join(map(str, shape))}]",
                got=described(images),
                remedy="build Augmentation with the image_size of the data and pass raw images",
            )


def source_pixels(draws: ViewDraws, size: int) -> tuple[Tensor, Tensor]:
    """Find the image pixel that each pixel of a view copies: flip, rotate, pad, crop.

    Returns the pixels' positions in the flattened image, ``[B, size * size]`` int64, and a bool
    tensor of the same shape, True where the view shows padding (the position is then 0).
    """
    centre = (size - 1) / 2
    along = torch.arange(size, device=draws.down.device)
    rows, columns = along + draws.down[:, None], along + draws.right[:, None]  # [B, size]
    cos, sin = draws.radians.cos()[:, None], draws.radians.sin()[:, None]
    mirror = torch.where(draws.flip, -1.0, 1.0).double()[:, None]
    # A rotated position is the sum of a column's and a row's contribution. As integers in units of
    # 2^-16 of a pixel they add up exactly, so to the same position on every device. The extra half
    # pixel turns the rounding down of the shift below into rounding to the nearest pixel.
    x_of_column = _fixed(mirror * cos * (columns - centre) + centre + 0.5, columns)
    x_of_row = _fixed(mirror * sin * (rows - centre), rows)
    y_of_column = _fixed(-sin * (columns - centre), columns)
    y_of_row = _fixed(cos * (rows - centre) + centre + 0.5, rows)
    x = (x_of_row[:, :, None] + x_of_column[:, None, :]) >> FRACTION_BITS
    y = (y_of_row[:, :, None] + y_of_column[:, None, :]) >> FRACTION_BITS
    # Bitwise `or` combines the sign bits: the result is negative where any of the four terms is.
    outside = (x | y | (size - 1 - x) | (size - 1 - y)) < 0
    places = (y * size + x).masked_fill_(outside, 0)
    return places.flatten(1).long(), outside.flatten(1)


def _fixed(places: Tensor, pixels: Tensor) -> Tensor:
    """Convert positions to int32 in units of 2^-16 of a pixel; `NOWHERE` marks the padding."""
    size = pixels.shape[1]
    fixed = (places * (1 << FRACTION_BITS)).round().int()
    return fixed.masked_fill_((pixels < 0) | (pixels >= size), NOWHERE)


def _channels(argument: str, values: Sequence[float], minimum: float) -> Tensor:
    if len(values) != 3 or not all(minimum <= value <= 1 for value in values):
        raise ArgumentError(
            argument,
            expected=f"3 numbers, one per channel, each {minimum:g} to 1",
            got=tuple(values),
            remedy=f"pass ImageData.{argument}, or divide statistics of 0 to 255 by 255",
        )
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


class NoAugmentation(nn.Module):
    """Replaces `Augmentation` for images that are already normalised and augmented.

    It returns all images unchanged.

    Example:
        >>> images, identity = torch.rand(2, 3, 8, 8), NoAugmentation()
        >>> identity.normalise(images) is images
        True
        >>> identity(images, seed=0, indices=torch.arange(2), view=5) is images
        True
    """

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images ``[B, 3, H, W]``, float32, unchanged."""
        return images

    def forward(self, images: Tensor, *, seed: int, indices: Tensor, view: int) -> Tensor:
        """Return the images ``[B, 3, H, W]``, float32, unchanged, whatever the view."""
        return images


def uniform(seed: int, view: int, indices: Tensor, count: int) -> Tensor:
    """Return `count` uniform random numbers for each image of a batch.

    `indices` are the images' indices, ``[B]``, int64. The result is ``[B, count]``, float64 in
    [0, 1), on the device of the indices, with the same values on every device.

    Example:
        >>> first = uniform(0, 3, torch.tensor([7, 8, 9]), 2)
        >>> torch.equal(first[2], uniform(0, 3, torch.tensor([9]), 2)[0])
        True
    """
    # Seed and view are mixed on the CPU, so that only one number is copied to the device.
    start, first, place = torch.tensor([[seed % (1 << 63)], [0], [view]], device="cpu")
    word = int(stream(stream(start, first), place))
    key = torch.full((1,), word, device=indices.device)
    places = torch.arange(count, device=indices.device)
    words = stream(stream(key, indices)[:, None], places)
    return _shift(words, 11).double() * 2.0**-53


def stream(states: Tensor, places: Tensor) -> Tensor:
    """Return the outputs number `places`, from 0, of SplitMix64 generators seeded with `states`.

    States and outputs are unsigned 64-bit words stored as int64; states and places broadcast.

    Example:
        >>> words = stream(torch.tensor([1234567]), torch.arange(2))
        >>> [word % 2**64 for word in words.tolist()]
        [6457827717110365317, 3203168211198807973]
    """
    # int64 overflow wraps around, which gives the same bits as unsigned arithmetic.
    words = states + (places + 1) * STEP
    words = (words ^ _shift(words, 30)) * FIRST_FACTOR
    words = (words ^ _shift(words, 27)) * SECOND_FACTOR
    return words ^ _shift(words, 31)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned words: fill in zeros, where int64 would repeat the sign bit."""
    return (words >> bits) & ((1 << 64 - bits) - 1)
