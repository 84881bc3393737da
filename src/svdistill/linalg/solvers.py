"""Forward solvers of the k leading singular values and vectors, and counts of their convergence.

Every solver takes finite `matrices` [B, N, D], their smaller Gram matrix `gram` [B, m, m] and `k`,
and returns values [B, k] and orthonormal vectors [B, D, k]. Order and sign are made canonical
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.linalg.precision import is_accelerator, may_branch
from svdistill.linalg.subspace import (
    GUARD,
    are_orthonormal,
    block_rows,
    eigh,
    leading_eigenpairs,
    leading_of_small,
    polish,
    svd,
)
from svdistill.parallel import is_grouped, sum_over

Solver = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


# Subspace iteration pays from m = 24 on, up to some k + 6 = sqrt(6 m): measured on two cores, batch
# 128, m from 16 to 128 and k from 1 to 33.
SMALLEST = 24

CROSSOVER = 6

# On an accelerator `leading_of_small` takes fewer kernels, up to a size k m^2 from which its
# products take longer than the kernels that it saves: by arithmetic, not measured.
SQUARED = 2**15


def smaller_gram(matrices: Tensor) -> Tensor:
    """``M^T M`` or ``M M^T``, whichever is smaller: [..., m, m], m = min(N, D)."""
    N, D = matrices.shape[-2:]
    return matrices.mT @ matrices if D <= N else matrices @ matrices.mT


def subspace_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Block subspace iteration; matrices that have not converged on a CPU are solved by `eigh`."""
    if block_rows(k) > gram.shape[-1]:
        return gram_solver(matrices, gram, k)
    lam, rows, converged = leading_eigenpairs(gram, k)
    values, vectors = _right_vectors(matrices, lam, rows)
    if not may_branch(gram.device):
        count_decomposed(converged)
        return values, vectors.mT
    converged = converged & are_orthonormal(vectors)
    count_decomposed(converged)
    if not bool(converged.all()):
        missed = (~converged).nonzero().squeeze(-1)
        again, right = gram_solver(matrices[missed], gram[missed], k)
        values, vectors = values.clone(), vectors.clone()
        values[missed], vectors[missed] = again, right.mT
    return values, vectors.mT


def gram_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the Gram matrix: by `eigh`, on an accelerator by `leading_of_small`."""
    if is_accelerator(gram.device):
        values, vectors = _right_vectors(matrices, *leading_of_small(gram, k))
        return values, vectors.mT
    N, D = matrices.shape[-2:]
    leading = eigh(gram)[1][..., -k:].flip(-1)
    if D <= N:
        # |M v| has the digits that the square root of a small eigenvalue loses.
        return torch.linalg.vector_norm(matrices @ leading, dim=-2), leading
    # The columns of M^T U are the right vectors times their values. QR normalises them, and
    # completes the basis where a value is zero, without a division.
    right, triangular = torch.linalg.qr(matrices.mT @ leading)
    return triangular.diagonal(dim1=-2, dim2=-1).abs(), right


def _right_vectors(matrices: Tensor, lam: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [B, k] and right vectors as rows [B, k, D], from the Gram matrix's."""
    N, D = matrices.shape[-2:]
    if D <= N:
        return lam.sqrt(), rows
    stretched = rows @ matrices
    values = torch.linalg.vector_norm(stretched, dim=-1)
    return values, polish(stretched / torch.where(values > 0, values, 1.0)[..., None])


def svd_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """The leading part of `torch.linalg.svd`: slow, synchronises, the reference for the others."""
    _, values, right_T = svd(matrices)
    return values[..., :k], right_T[..., :k, :].mT


def auto_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The faster of `subspace_solver` and `gram_solver` for this size; `gram_solver` in float64."""
    m = gram.shape[-1]
    pays = m >= SMALLEST and (k + GUARD) ** 2 <= CROSSOVER * m
    if is_accelerator(gram.device):
        pays = k * m**2 > SQUARED
    if gram.dtype == torch.float64 or not pays:
        return gram_solver(matrices, gram, k)
    return subspace_solver(matrices, gram, k)


SOLVERS: dict[str, Solver] = {
    "auto": auto_solver,
    "subspace": subspace_solver,
    "gram": gram_solver,
    "svd": svd_solver,
}


@dataclass
class Convergence:
    """Counts of solvers and gradients within `watch_convergence`.

    `missed` and `close` are scalars on the device; reading them synchronises with it.

    Attributes:
        decomposed: matrices that subspace iteration decomposed.
        missed: those of them that did not converge. On a CPU `eigh` decomposed them again.
        differentiated: matrices that received a gradient, whatever the solver.
        close: those of them with a kept value so close to the next one, or to zero, that
            the gradient was damped (`are_close`).
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

    A step recorded in a CUDA graph adds to `missed` and `close` in every replay, but to
    `decomposed` and `differentiated` only once.

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
