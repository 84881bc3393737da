"""Choose classes of a data set: every n-th, or so many drawn by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from svdistill.errors import ArgumentError


class ClassDraw(NamedTuple):
    """How many classes to draw, and with which seed."""

    size: int
    seed: int


def parse_draw(text: str) -> ClassDraw:
    """Read ``N@SEED``.

    Raises:
        ArgumentError: if it is something else, or fewer than 2 classes.

    Example:
        >>> parse_draw("50@0")
        ClassDraw(size=50, seed=0)
    """
    found = re.fullmatch("([0-9]+)@([0-9]+)", str(text))
    if found is None or int(found[1]) < 2:
        raise ArgumentError(
            "classes",
            expected="N@SEED, such as 50@0: how many classes, 2 or more, and the seed of the draw",
            got=repr(text),
            remedy="write it so, or leave it out to keep all classes",
        )
    return ClassDraw(int(found[1]), int(found[2]))


def chosen_classes(names: Sequence[str], every: int, draw: ClassDraw | None) -> np.ndarray:
    """Choose every n-th class, and of these as many as are drawn.

    Those are drawn whose ``SEED:NAME``, in UTF-8, has the smallest SHA-256: the draw follows from
    names and seed alone, on any machine and in any version. ``printf 0:n01440764 | sha256sum``
    shows a class's place in it.

    Args:
        names: name of each class.
        every: keep classes 0, n, 2n, ...
        draw: how many of these to draw, or None for all.

    Returns:
        The places of the chosen classes, ascending, int64 ``[C]``.

    Raises:
        ArgumentError: if fewer than 2 classes are left, or fewer than are to be drawn.

    Example:
        >>> chosen_classes(["ant", "bee", "cat", "dog"], 1, ClassDraw(2, seed=0)).tolist()
        [1, 3]
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
    if draw.size > len(kept):
        raise ArgumentError(
            "classes",
            expected=f"at most {len(kept)} classes, as many as there are",
            got=draw.size,
            remedy="draw fewer",
        )
    digests = {place: sha256(f"{draw.seed}:{names[place]}".encode()).digest() for place in kept}
    drawn = sorted(kept, key=digests.__getitem__)[: draw.size]
    return np.array(sorted(drawn))
