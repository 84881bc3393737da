"""Curves of several seeds as one: their mean, and the band from the lowest to the highest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
