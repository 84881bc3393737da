"""Choose rows of a data set: fixed and seeded stratified parts, some of the classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from svdistill.data.streamed import Pictures
from svdistill.errors import ArgumentError, require_count


class Part(NamedTuple):
    """Some rows of a table of pictures, with their labels.

    Attributes:
        pictures: where the images are read from.
        rows: rows of `pictures`, int64 ``[N]``.
        labels: label of each of these rows, int64 ``[N]``.
    """

    pictures: Pictures
    rows: np.ndarray
    labels: np.ndarray

    def take(self, kept: np.ndarray) -> Part:
        """Return the part of this part at these places."""
        return Part(self.pictures, self.rows[kept], self.labels[kept])


def split_part(part: Part, size: int, seed: int) -> tuple[Part, Part]:
    """Split into a stratified part of the given size, and the rest.

    Args:
        part: what to split.
        size: images in the first result.
        seed: decides which images; 0 or more.

    Returns:
        Two parts without a common row, each in stored order.
    """
    kept = stratified(part.labels, size, seed)
    rest = np.setdiff1d(np.arange(len(part.labels)), kept, assume_unique=True)
    return part.take(kept), part.take(rest)


def stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose places at random such that every class keeps its share.

    One share for all classes, such that a class of n images keeps ``share * n``, rounded to the
    nearest whole number, but at least one image where `size` allows it.

    Args:
        labels: label of each image, int64 ``[N]``.
        size: places to choose, 0 to N.
        seed: decides which; 0 or more.

    Returns:
        The places, ascending, int64 ``[size]``.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, seed=0)].tolist()
        [0, 0, 1]
    """
    random = np.random.default_rng(seed)
    # Each class in a random order of its own: the r-th of its n images waits until (r + 1/2) / n
    # of the data set is taken, and the first one goes before all others.
    waits = np.empty(len(labels))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        ranks = random.permutation(len(places))
        waits[places] = np.where(ranks == 0, 0.0, (ranks + 0.5) / len(places))
    ties = random.random(len(labels))
    return np.sort(np.lexsort((ties, waits))[:size])


def keep_classes(part: Part, classes: np.ndarray) -> Part:
    """Keep the images of these classes, ascending, and number the classes 0, 1, 2, ..."""
    kept = part.take(np.flatnonzero(np.isin(part.labels, classes)))
    return kept._replace(labels=np.searchsorted(classes, kept.labels))


def training_part(part: Part, size: int | None, seed: int) -> tuple[Part, Part]:
    """Split into a stratified part of the given size, or all for None, and the rest.

    Raises:
        ArgumentError: if there are fewer images than that, or fewer wanted than there are classes.
    """
    if size is None:
        return part, part.take(np.arange(0))
    require_count("train_size", size)
    classes = len(np.unique(part.labels))
    if not classes <= size <= len(part.labels):
        raise ArgumentError(
            "train_size",
            expected=f"{classes} (one image per class) to {len(part.labels)} (all that there are)",
            got=size,
            remedy="choose a size in this range, or None for all",
        )
    return split_part(part, size, seed)
