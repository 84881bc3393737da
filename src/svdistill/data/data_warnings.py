"""Warnings about a data set: unused parts, and choices between several readings."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PACKAGE: Final = str(Path(__file__).parents[1])

SHOWN: Final = 5


class DataWarning(UserWarning):
    """Part of a data set is not used, or one of several readings of it was chosen."""


def warn(text: str) -> None:
    """Issue a `DataWarning` at the line outside of svdistill that asked for the data."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    place = (frame.f_code.co_filename, frame.f_lineno)
    # With a new registry the same line warns again for the next data set of a session.
    warnings.warn_explicit(text, DataWarning, *place, registry={})


def listed(names: Iterable[object]) -> str:
    """Quote the first names for a message, and count the others.

    Example:
        >>> listed(["ant", "bee"]), listed(range(9))
        ("'ant', 'bee'", '0, 1, 2, 3, 4 and 4 more')
    """
    texts = [repr(name) for name in names]
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


class SkippedFiles:
    """Counts what a folder holds that is not read, for one warning.

    Args:
        root: the folder; names in the warning are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kinds: dict[str, list[str]] = {}
        self._images: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()

    def add(self, kind: str, path: Path, images: int = 0) -> None:
        """Count a file or folder of a kind such as ``hidden``, and the images in it."""
        name = str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)
        self._kinds.setdefault(kind, []).append(name)
        self._images[kind] += images

    def add_suffix(self, path: Path) -> None:
        """Count a file with a suffix that Pillow does not read."""
        self._suffixes[path.suffix.lower() or "no suffix"] += 1

    def warn(self) -> None:
        """Issue one warning if anything was counted."""
        parts = []
        for kind, names in self._kinds.items():
            images = f" with {self._images[kind]:,} image(s)" if self._images[kind] else ""
            parts.append(f"{len(names):,} {kind}{images} ({listed(names)})")
        if self._suffixes:
            common = self._suffixes.most_common(SHOWN)
            counts = ", ".join(f"{count:,} {suffix}" for suffix, count in common)
            more = ", ..." if len(self._suffixes) > SHOWN else ""
            total = self._suffixes.total()
            parts.append(f"{total:,} file(s) that Pillow does not read by suffix ({counts}{more})")
        if parts:
            warn(f"{self._root}: left out " + "; ".join(parts))
