"""Select some of the classes and of the images of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from svdistill.common import SHOWN, ArgumentError, DataError, require_count, warn_of_data
from svdistill.data.image_files import Pictures


class Subset(NamedTuple):
    """Some rows of a table of pictures, with their labels.

    Attributes:
        pictures: where the images are read from.
        rows: the rows of `pictures` that the subset holds, int64 ``[N]``.
        labels: label of each of these rows, int64 ``[N]``.
    """

    pictures: Pictures
    rows: np.ndarray
    labels: np.ndarray

    def take(self, places: np.ndarray) -> Subset:
        """Return the subset of the images at these positions within the subset."""
        return Subset(self.pictures, self.rows[places], self.labels[places])


class ClassDraw(NamedTuple):
    """A random draw of `size` classes; `rest` keeps the classes that are not drawn instead."""

    size: int
    seed: int
    rest: bool = False


def parse_draw(text: str) -> ClassDraw:
    """Parse ``N@SEED`` or ``rest:N@SEED``, where N is 2 or more.

    Example:
        >>> parse_draw("50@0")
        ClassDraw(size=50, seed=0, rest=False)
    """
    found = re.fullmatch("(rest:)?([0-9]+)@([0-9]+)", str(text))
    if found is None or int(found[2]) < 2:
        raise ArgumentError(
            "classes",
            expected="N@SEED, such as 50@0: how many classes, 2 or more, and the seed of the draw; "
            "or rest:N@SEED for all others",
            got=repr(text),
            remedy="write it so, or leave it out to keep all classes",
        )
    return ClassDraw(int(found[2]), int(found[3]), rest=found[1] is not None)


def select_classes(names: Sequence[str], every: int, draw: ClassDraw | None) -> np.ndarray:
    """Choose every n-th class (n = `every`), and draw some of these classes if `draw` is given.

    The drawn classes are those for which the SHA-256 of the text ``SEED:NAME``, in UTF-8, is
    smallest. So the draw depends on names and seed alone, on any machine and in any version. The
    command ``printf 0:n01440764 | sha256sum`` shows the number by which a class is ordered.

    Returns the numbers of the chosen classes, ascending, int64 ``[C]``.

    Example:
        >>> names = ["ant", "bee", "cat", "dog"]
        >>> select_classes(names, 1, ClassDraw(2, seed=0)).tolist()
        [1, 3]
        >>> select_classes(names, 1, ClassDraw(2, seed=0, rest=True)).tolist()
        [0, 2]
    """
    kept = range(0, len(names), every)
    if len(kept) < 2:
        raise ArgumentError(
            "classes_every",
            expected=f"a step that leaves 2 or more of {len(names)} classes",
            got=every,
            remedy="choose a smaller step",
        )
    if draw is None:
        return np.array(kept)
    most = len(kept) - 2 if draw.rest else len(kept)
    if draw.size > most:
        others = ", so that 2 are left" if draw.rest else ""
        raise ArgumentError(
            "classes",
            expected=f"at most {most} classes of {len(kept)}{others}",
            got=draw.size,
            remedy="draw fewer",
        )
    digests = {place: sha256(f"{draw.seed}:{names[place]}".encode()).digest() for place in kept}
    order = sorted(kept, key=digests.__getitem__)
    return np.array(sorted(order[draw.size :] if draw.rest else order[: draw.size]))


def keep_classes(subset: Subset, classes: np.ndarray) -> Subset:
    """Keep the images of these classes, given ascending, and renumber the classes 0, 1, 2, ..."""
    kept = subset.take(np.flatnonzero(np.isin(subset.labels, classes)))
    return kept._replace(labels=np.searchsorted(classes, kept.labels))


def stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose `size` images at random such that all classes keep the same share of their images.

    A class of n images keeps ``share * n``, rounded to the nearest integer, but at least one image
    where `size` allows it. Returns the positions of the chosen images in `labels`, ascending, int64
    ``[size]``.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, seed=0)].tolist()
        [0, 0, 1]
    """
    random = np.random.default_rng(seed)
    # The images of a class are ranked at random: the image of rank r of n, from 0, is kept if the
    # share is at least (r + 1/2) / n. Rank 0 has threshold 0, so that every class keeps an image.
    thresholds = np.empty(len(labels))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        ranks = random.permutation(len(places))
        thresholds[places] = np.where(ranks == 0, 0.0, (ranks + 0.5) / len(places))
    ties = random.random(len(labels))
    return np.sort(np.lexsort((ties, thresholds))[:size])


def stratified_split(subset: Subset, size: int, seed: int) -> tuple[Subset, Subset]:
    """Split a subset into a stratified one of `size` images and the rest, both in stored order."""
    kept = stratified(subset.labels, size, seed)
    rest = np.setdiff1d(np.arange(len(subset.labels)), kept, assume_unique=True)
    return subset.take(kept), subset.take(rest)


def training_subset(subset: Subset, size: int | None, seed: int) -> tuple[Subset, Subset]:
    """Split a subset into a stratified one of `size` images (all if None) and the rest."""
    if size is None:
        return subset, subset.take(np.arange(0))
    require_count("train_size", size)
    classes = len(np.unique(subset.labels))
    if not classes <= size <= len(subset.labels):
        raise ArgumentError(
            "train_size",
            expected=f"{classes} (one image per class) to {len(subset.labels)} (all images)",
            got=size,
            remedy="choose a size in this range, or leave it out for all",
        )
    return stratified_split(subset, size, seed)


def check_spelling(source: str, names: Sequence[str], labels: Mapping[str, np.ndarray]) -> None:
    """Check for class names that differ only in case or in their Unicode form.

    `labels` are the labels of each split, by its name. Raises `DataError` if the splits spell a
    class differently, which makes two classes of it. If all splits have both names, such as the
    letters ``a`` and ``A``, they are taken as two classes with a warning.

    Example:
        >>> labels = {"train": np.array([0]), "test": np.array([1])}
        >>> check_spelling("insects", ["bee", "Bee"], labels)
        Traceback (most recent call last):
        svdistill.common.errors.DataError: insects: expected one spelling of each class, got 'bee' \
with 1 image(s) in train, 'Bee' with 1 image(s) in test; rename one of them
    """
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        alike.setdefault(key, []).append(number)
    for numbers in alike.values():
        if len(numbers) < 2:
            continue
        present = [set(numbers) & set(np.unique(some).tolist()) for some in labels.values()]
        told = ", ".join(_count_by_split(names[number], number, labels) for number in numbers)
        if any(not (one <= other or other <= one) for one in present for other in present):
            raise DataError(
                source,
                expected="one spelling of each class",
                got=told,
                remedy="rename one of them",
            )
        warn_of_data(f"{source}: classes that differ only in case or Unicode form: {told}")


def check_presence(source: str, names: Sequence[str], train: np.ndarray, test: np.ndarray) -> None:
    """Warn of classes that have no training images, no test images, or a single image.

    Raises `DataError` if no test image belongs to a class that has training images.
    """
    trained = np.bincount(train, minlength=len(names))
    tested = np.bincount(test, minlength=len(names))
    if len(test) and not tested[trained > 0].any():
        raise DataError(
            source,
            expected="test images of classes that training images have",
            got="none of " + _with_counts(names, tested, tested > 0),
            remedy="name the classes of both splits alike, or use more images of each class",
        )
    kinds = (
        ("test images of classes without training images", tested, (trained == 0) & (tested > 0)),
        ("training images of classes without test images", trained, (tested == 0) & (trained > 1)),
        ("classes of a single image", trained + tested, trained + tested == 1),
        ("classes with a single training image", trained, (trained == 1) & (tested > 0)),
        ("classes without any image", trained, trained + tested == 0),
    )
    for kind, counts, chosen in kinds:
        if chosen.any():
            warn_of_data(f"{source}: {kind}: {_with_counts(names, counts, chosen)}")


def _count_by_split(name: str, number: int, labels: Mapping[str, np.ndarray]) -> str:
    """Format a class and its number of images by split: ``'bee' with 7 image(s) in train``.

    The name is printed in ASCII with escapes, since different Unicode forms look the same.
    """
    counts = {split: int((some == number).sum()) for split, some in labels.items()}
    told = " and ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
    return f"{name!a} with {told.replace(' in ', ' image(s) in ', 1) or 'no image'}"


def _with_counts(names: Sequence[str], counts: np.ndarray, chosen: np.ndarray) -> str:
    """Format the chosen classes with their numbers of images for a message."""
    numbers = np.flatnonzero(chosen)
    some = ", ".join(f"{names[number]!r} ({counts[number]:,})" for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    return f"{some}{more}, {len(numbers):,} class(es) with {counts[numbers].sum():,} image(s)"
