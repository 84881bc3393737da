"""Counts matrices whose decomposition did not converge, or whose gradient was damped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.parallel import is_grouped, sum_over


@dataclass
class Convergence:
    """Counts of solvers and gradients within `watch_convergence`.

    `missed` and `close` are scalars on the device; reading them synchronises with it.

    Attributes:
        decomposed: matrices that subspace iteration decomposed.
        missed: those above the residual bound. On a CPU `eigh` decomposed them again.
        differentiated: matrices that received a gradient, whatever the solver.
        close: those with a kept value so close to the next kept one, or to zero, that the gradient
            was damped (`are_close`).
    """

    decomposed: int
    missed: Tensor
    differentiated: int
    close: Tensor

    def missed_share(self) -> float | None:
        """The share of `missed` in `decomposed`; None if nothing was decomposed."""
        return int(self.missed) / self.decomposed if self.decomposed else None

    def close_share(self) -> float | None:
        """The share of `close` in `differentiated`; None if nothing was differentiated."""
        return int(self.close) / self.differentiated if self.differentiated else None

    def add_other_processes(self) -> None:
        """Add the counts of the other processes of the group."""
        if is_grouped():
            here = self.missed.new_tensor([self.decomposed, self.differentiated])
            counts = sum_over(torch.cat([torch.stack([self.missed, self.close]), here]))
            self.missed.copy_(counts[0])
            self.close.copy_(counts[1])
            self.decomposed, self.differentiated = counts[2:].tolist()

    def state_dict(self) -> dict[str, int]:
        """All counts, as numbers."""
        return {
            "decomposed": self.decomposed,
            "missed": int(self.missed),
            "differentiated": self.differentiated,
            "close": int(self.close),
        }

    def add(self, state: Mapping[str, int]) -> None:
        """Add the counts of a `state_dict`, in place."""
        self.decomposed += state["decomposed"]
        self.differentiated += state["differentiated"]
        self.missed += state["missed"]
        self.close += state["close"]

    def reset(self) -> None:
        """Set all counts to zero, in place."""
        self.decomposed = self.differentiated = 0
        self.missed.zero_()
        self.close.zero_()


_watches: list[Convergence] = []


@contextmanager
def watch_convergence(device: torch.device | str) -> Iterator[Convergence]:
    """Count decompositions on a device within the block.

    A recorded step counts `missed` and `close` in every replay, the other two only once.

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


def count_differentiated(are_close: Callable[[Tensor], Tensor], lam: Tensor) -> None:
    """Add the gradient of one batch to the watches, from its kept values squared [B, k]."""
    for watch in _watches:
        watch.differentiated += len(lam)
        watch.close += are_close(lam).sum()
