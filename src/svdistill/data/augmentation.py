"""Random views of a batch of images, drawn where the images are, reproducible from one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from svdistill.errors import ArgumentError, require_choice, require_count

AUGMENTATIONS: Final = ("none", "crop_flip", "seed")
ROTATION_DEGREES: Final = 15.0


class Augmentation(nn.Module):
    """Normalise images per channel, then draw one random view of each.

    ``view = crop(pad(rotate(flip((images / 255 - mean) / std))))``. Padding comes after
    normalising, so what it fills in is the mean colour. Crops move whole
    pixels and never interpolate.

    Args:
        name: ``"none"``; ``"crop_flip"``: horizontal flip, then pad and crop; ``"seed"``:
            horizontal flip, rotation by up to 15 degrees either way (nearest pixel), then pad
            and crop.
        image_size: height and width of the images; an eighth of it is padded on each side.
        mean: mean of each of the 3 channels, in 0 to 1.
        std: standard deviation of each channel, in 0 to 1, above 0.

    Raises:
        ArgumentError: for an unknown name, or statistics that are not 3 usable numbers.

    Example:
        >>> augmentation = Augmentation("crop_flip", 16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        >>> views = augmentation(images, seed=7)
        >>> tuple(views.shape), views.dtype, views.min().item()
        ((4, 3, 16, 16), torch.float32, -2.0)
        >>> torch.equal(views, augmentation(images, seed=7))
        True

    Source:
        ``"seed"`` at 32x32 is the protocol of Lee, Kim and Song (ECCV 2018).
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
        # Constants of the data set, not state that was learnt: checkpoints leave them out.
        self.register_buffer("mean", _channels("mean", mean, 0.0), persistent=False)
        self.register_buffer("std", _channels("std", std, 1e-6), persistent=False)
        # In a tuple they are no submodules: kornia draws on the CPU, wherever this module goes.
        self.views = _views(name, image_size)

    def extra_repr(self) -> str:
        """Show the settings in ``print(augmentation)``."""
        return f"{self.name!r}, image_size={self.image_size}"

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images to zero mean and unit deviation per channel, as evaluation needs them.

        Args:
            images: ``[B, 3, H, W]``, uint8.

        Returns:
            ``[B, 3, H, W]``, float32, on the device of the images.

        Raises:
            ArgumentError: if the images have another dtype or shape.
        """
        shape = (3, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
            raise ArgumentError(
                "images",
                expected=f"uint8 of shape [B, {', '.join(map(str, shape))}]",
                got=f"{images.dtype} of shape {list(images.shape)}",
                remedy="build Augmentation with the image_size of the data and pass raw images",
            )
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return images.float().div_(255).sub_(mean).div_(std)

    @torch.no_grad()
    def forward(self, images: Tensor, *, seed: int) -> Tensor:
        """Normalise the images and draw one view of each.

        Args:
            images: ``[B, 3, H, W]``, uint8.
            seed: 0 or more. It alone decides the views, on every device; torch's global random
                state is neither read nor changed.

        Returns:
            ``[B, 3, H, W]``, float32, on the device of the images.

        Raises:
            ArgumentError: if the images have another dtype or shape, or the seed is negative.
        """
        require_count("seed", seed, 0)
        views = self.normalise(images)
        if self.name == "none" or len(views) == 0:
            return views
        # kornia draws its parameters from the CPU's global generator, whatever the images' device.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for view in self.views:
                views = view(views)
        return views


def _views(name: str, image_size: int) -> tuple[nn.Module, ...]:
    if name == "none":
        return ()
    # Imported here because it takes two seconds, and evaluation never needs it.
    from kornia.augmentation import RandomCrop, RandomHorizontalFlip, RandomRotation

    flip = RandomHorizontalFlip(p=0.5)
    # "slice" copies whole pixels; "resample" would interpolate, and is slower.
    size = (image_size, image_size)
    crop = RandomCrop(size, padding=image_size // 8, cropping_mode="slice")
    if name == "crop_flip":
        return (flip, crop)
    return (flip, RandomRotation(ROTATION_DEGREES, resample="nearest", p=1.0), crop)


def _channels(argument: str, values: Sequence[float], minimum: float) -> Tensor:
    if len(values) != 3 or not all(minimum <= value <= 1 for value in values):
        raise ArgumentError(
            argument,
            expected=f"3 numbers, one per channel, each {minimum:g} to 1",
            got=tuple(values),
            remedy=f"pass ImageData.{argument}, or divide statistics of 0 to 255 by 255",
        )
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
