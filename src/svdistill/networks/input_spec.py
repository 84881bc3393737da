"""What images a published network was trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """The images that a network of another library takes.

    Attributes:
        image_size: side in pixels of the square images.
        mean, std: of the channels, in 0 to 1, with which they are normalised.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
