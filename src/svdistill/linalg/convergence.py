"""Counts the matrices whose decomposition, or its gradient, was a hard case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.parallel import is_grouped, sum_over


@dataclass
class Convergence:
    """What solvers and gradients report while a watch lasts.

    Attributes:
        decomposed: matrices that subspace iteration was given.
        missed: those above the residual bound, a scalar on the device: read it after a captured
            step, never in it. Outside of captured steps they were computed again by `eigh`.
        differentiated: matrices that a gradient went back to, whatever the solver.
        close: those of which a kept value was so close to the next kept one, or to zero, that the
            gradient was damped (`complement.are_close`), likewise on the device.
    """

    decomposed: int
    missed: Tensor
    differentiated: int
    close: Tensor

    def missed_share(self) -> float | None:
        """Of the matrices that were decomposed; None where there were none."""
        return int(self.missed) / self.decomposed if self.decomposed else None

    def close_share(self) -> float | None:
        """Of the matrices that were differentiated, likewise."""
        return int(self.close) / self.differentiated if self.differentiated else None

    def add_other_processes(self) -> None:
        """Count what the others that train together with this one have counted, too."""
        if is_grouped():
            here = self.missed.new_tensor([self.decomposed, self.differentiated])
            counts = sum_over(torch.cat([torch.stack([self.missed, self.close]), here]))
            self.missed.copy_(counts[0])
            self.close.copy_(counts[1])
            self.decomposed, self.differentiated = counts[2:].tolist()

    def state_dict(self) -> dict[str, int]:
        """All counts; to read them is to wait for the device."""
        return {
            "decomposed": self.decomposed,
            "missed": int(self.missed),
            "differentiated": self.differentiated,
            "close": int(self.close),
        }

    def add(self, state: Mapping[str, int]) -> None:
        """Count what `state_dict` returned too, in the same memory."""
        self.decomposed += state["decomposed"]
        self.differentiated += state["differentiated"]
        self.missed += state["missed"]
        self.close += state["close"]

    def reset(self) -> None:
        """Begin again, in the same memory."""
        self.decomposed = self.differentiated = 0
        self.missed.zero_()
        self.close.zero_()


_watches: list[Convergence] = []


@contextmanager
def watch_convergence(device: torch.device | str) -> Iterator[Convergence]:
    """Count while the block lasts.

    A step that is replayed as a CUDA graph counts `missed` and `close` in every replay, the other
    two once.

    Args:
        device: where the decompositions happen.

    Example:
        >>> from svdistill.linalg import truncated_svd
        >>> matrices = torch.rand(4, 200, 100, requires_grad=True)
        >>> with watch_convergence("cpu") as watch:
        ...     truncated_svd(matrices, k=1, solver="subspace").singular_values.sum().backward()
        >>> watch.decomposed, int(watch.missed), watch.differentiated, int(watch.close)
        (4, 0, 4, 0)
    """
    missed, close = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
    watch = Convergence(0, missed, 0, close)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def count_decomposed(converged: Tensor) -> None:
    """Add one decomposition of a batch [B] to the watches."""
    for watch in _watches:
        watch.decomposed += converged.numel()
        watch.missed += (~converged).sum()


def count_differentiated(close: Tensor) -> None:
    """Add the gradient of one batch [B] to the watches."""
    for watch in _watches:
        watch.differentiated += close.numel()
        watch.close += close.sum()
