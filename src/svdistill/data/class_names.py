"""Check the classes of a data set: their spelling, and whether both splits have images of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from svdistill.data.notes import SHOWN, note
from svdistill.errors import DataError


def check_spelling(source: str, names: Sequence[str], labels: Mapping[str, np.ndarray]) -> None:
    """Compare names that differ only in case or in their Unicode form.

    Splits that spell a class differently make two of it. Where they agree, as of the letters ``a``
    and ``A``, a note says so.

    Args:
        source: name of the data set, for messages.
        names: name of each class.
        labels: labels of each split by its name, int64 ``[N]``.

    Raises:
        DataError: the splits spell a class differently.

    Example:
        >>> labels = {"train": np.array([0]), "test": np.array([1])}
        >>> check_spelling("insects", ["bee", "Bee"], labels)
        Traceback (most recent call last):
        svdistill.errors.DataError: insects: expected one spelling of each class, got 'bee' with 1 \
image(s) in train, 'Bee' with 1 image(s) in test; rename one of them
    """
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        alike.setdefault(key, []).append(number)
    for numbers in alike.values():
        if len(numbers) < 2:
            continue
        there = [set(numbers) & set(np.unique(some).tolist()) for some in labels.values()]
        counted = [_where(names, number, labels) for number in numbers]
        if any(not (one <= other or other <= one) for one in there for other in there):
            raise DataError(
                source,
                expected="one spelling of each class",
                got=", ".join(counted),
                remedy="rename one of them",
            )
        note(f"{source}: classes that differ only in case or Unicode form: {', '.join(counted)}")


def check_presence(source: str, names: Sequence[str], train: np.ndarray, test: np.ndarray) -> None:
    """Say which classes have no training images, no test images, or a single image.

    Args:
        source: name of the data set, for messages.
        names: name of each class.
        train: labels of the training images, int64 ``[N]``.
        test: labels of the test images, int64 ``[M]``.

    Raises:
        DataError: no test image is of a class that has training images.
    """
    trained = np.bincount(train, minlength=len(names))
    tested = np.bincount(test, minlength=len(names))
    if len(test) and not tested[trained > 0].any():
        raise DataError(
            source,
            expected="test images of classes that training images have",
            got="none of " + _counted(names, tested, tested > 0),
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
            note(f"{source}: {kind}: {_counted(names, counts, chosen)}")


def _where(names: Sequence[str], number: int, labels: Mapping[str, np.ndarray]) -> str:
    """``'bee' with 7 image(s) in train``; escaped, since composed letters look like others."""
    counts = {split: int((some == number).sum()) for split, some in labels.items()}
    told = " and ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
    return f"{names[number]!a} with {told.replace(' in ', ' image(s) in ', 1) or 'no image'}"


def _counted(names: Sequence[str], counts: np.ndarray, chosen: np.ndarray) -> str:
    """The chosen classes with their numbers of images."""
    numbers = np.flatnonzero(chosen)
    some = ", ".join(f"{names[number]!r} ({counts[number]:,})" for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    return f"{some}{more}, {len(numbers):,} class(es) with {counts[numbers].sum():,} image(s)"
