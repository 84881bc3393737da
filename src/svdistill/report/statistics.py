"""Means, spreads and intervals of accuracies over seeds and images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Z_95: Final = 1.959963984540054


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy, in percent.

    With p the share of right answers among n, and z of the normal distribution::

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It says how the same network would do on other images of the same kind, not how another training
    of it would come out.

    Args:
        percent: the accuracy, 0 to 100.
        images: on so many, 1 or more.

    Example:
        >>> [round(bound, 1) for bound in wilson_interval(90.0, 100)]
        [82.6, 94.5]

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927.
    """
    p = percent / 100
    centre = p + Z_95**2 / (2 * images)
    half = Z_95 * math.sqrt(p * (1 - p) / images + Z_95**2 / (4 * images**2))
    scale = 100 / (1 + Z_95**2 / images)
    return scale * (centre - half), scale * (centre + half)


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest of several curves, at every point that all of them have."""

    mean: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


def band_of(curves: Sequence[Sequence[float]]) -> Band:
    """Sum several curves up, point by point, as far as the shortest goes.

    Example:
        >>> band_of([[10.0, 20.0], [30.0, 60.0, 90.0]])
        Band(mean=(20.0, 40.0), lowest=(10.0, 20.0), highest=(30.0, 60.0))
    """
    points = list(zip(*curves, strict=False))
    return Band(
        tuple(statistics.fmean(point) for point in points),
        tuple(min(point) for point in points),
        tuple(max(point) for point in points),
    )
