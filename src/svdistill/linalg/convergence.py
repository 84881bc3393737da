"""Counts the matrices for which subspace iteration fell short of its bound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Convergence:
    """What the solvers report while a watch lasts.

    Attributes:
        decomposed: matrices that subspace iteration was given.
        missed: those above the residual bound, a scalar on the device: read it after a captured
            step, never in it. Outside of captured steps they were computed again by `eigh`.
    """

    decomposed: int
    missed: Tensor


_watches: list[Convergence] = []


@contextmanager
def watch_convergence(device: torch.device | str) -> Iterator[Convergence]:
    """Count while the block lasts.

    A step that is replayed as a CUDA graph counts `missed` in every replay, and `decomposed` once.

    Args:
        device: where the decompositions happen.

    Example:
        >>> from svdistill.linalg import truncated_svd
        >>> with watch_convergence("cpu") as watch:
        ...     _ = truncated_svd(torch.rand(4, 200, 100), k=1, solver="subspace")
        >>> watch.decomposed, int(watch.missed)
        (4, 0)
    """
    watch = Convergence(0, torch.zeros((), dtype=torch.int64, device=device))
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def report(converged: Tensor) -> None:
    """Add one decomposition of a batch [B] to the watches."""
    for watch in _watches:
        watch.decomposed += converged.numel()
        watch.missed += (~converged).sum()
