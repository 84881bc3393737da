"""Read from the shape of an output how its positions lie in the image."""

from __future__ import annotations

import math

MOST_PREFIX_TOKENS = 16  # class, distillation and register tokens before those of the image
WORST_FIT = 0.5  # between it and the small maps of long images lie attention's heads by tokens


def grid(shape: tuple[int, ...], image: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map, in the proportions of the image.

    Args:
        shape: of the output without the batch: (D, H, W), (H, W, D), (T, D) or (D,).
        image: height and width of the images.

    Returns:
        The map's height and width; of tokens, those of the image without a prefix. (0, 0) for a
        vector, and for what is no map of the image.

    Example:
        >>> [grid(shape, (224, 224)) for shape in ((64, 56, 56), (7, 7, 768), (197, 384))]
        [(56, 56), (7, 7), (14, 14)]
    """
    if len(shape) == 2:
        return _token_grid(shape[0], image)
    if len(shape) != 3 or min(_misfit(shape[1:], image), _misfit(shape[:2], image)) > WORST_FIT:
        return 0, 0
    a, b, c = shape
    return (a, b) if is_channels_last(shape, image) else (b, c)


def is_channels_last(shape: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether (H, W, D) fits the proportions of the image better than (D, H, W).

    For square images the map is square in one of the two, unless D = H = W; then the channels are
    taken to come first. For others the proportions may mislead where D is close to a side.
    """
    return len(shape) == 3 and _misfit(shape[:2], image) < _misfit(shape[1:], image)


def _token_grid(tokens: int, image: tuple[int, int]) -> tuple[int, int]:
    """The largest grid with the image's proportions, if few tokens are left for a prefix."""
    height = int(math.sqrt(tokens * image[0] / image[1]) + 1e-6)
    width = int(math.sqrt(tokens * image[1] / image[0]) + 1e-6)
    return (height, width) if tokens - height * width <= MOST_PREFIX_TOKENS else (0, 0)


def _misfit(sides: tuple[int, ...], image: tuple[int, int]) -> float:
    """How far two sides are from the image's proportions, from 0 to 1."""
    crossed = sides[0] * image[1], sides[1] * image[0]
    return 1 - min(crossed) / max(crossed)
