"""Forward solvers: the k leading singular values and right singular vectors of matrices.

Every solver takes finite `matrices` [B, N, D], their smaller Gram matrix `gram` [B, m, m] and `k`,
and returns values [B, k] and orthonormal vectors [B, D, k]. Order and sign are made canonical
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdistill.linalg.branching import may_branch
from svdistill.linalg.convergence import report
from svdistill.linalg.subspace import GUARD, are_orthonormal, leading_eigenpairs, polish

Solver = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def smaller_gram(matrices: Tensor) -> Tensor:
    """``M^T M`` or ``M M^T``, whichever is smaller: [..., m, m], m = min(N, D)."""
    N, D = matrices.shape[-2:]
    return matrices.mT @ matrices if D <= N else matrices @ matrices.mT


def subspace_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Block subspace iteration on the Gram matrix; `eigh` for members that did not converge."""
    N, D = matrices.shape[-2:]
    if k + GUARD > gram.shape[-1]:
        return gram_solver(matrices, gram, k)
    lam, vectors, converged = leading_eigenpairs(gram, k)
    values = lam.sqrt()
    if N < D:
        vectors = vectors @ matrices
        values = torch.linalg.vector_norm(vectors, dim=-1)
        vectors = polish(vectors / torch.where(values > 0, values, 1.0)[..., None])
    converged = converged & are_orthonormal(vectors)
    report(converged)
    if may_branch(gram.device) and not bool(converged.all()):
        missed = (~converged).nonzero().squeeze(-1)
        again, right = gram_solver(matrices[missed], gram[missed], k)
        values, vectors = values.clone(), vectors.clone()
        values[missed], vectors[missed] = again, right.mT
    return values, vectors.mT


def gram_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All eigenvectors of the Gram matrix, by `eigh`."""
    N, D = matrices.shape[-2:]
    leading = torch.linalg.eigh(gram).eigenvectors[..., -k:].flip(-1)
    if D <= N:
        # |M v| keeps the digits that the square root of a small eigenvalue has lost.
        return torch.linalg.vector_norm(matrices @ leading, dim=-2), leading
    # The columns of M^T U are the right vectors times their values. QR normalises them, and
    # completes the basis where a value is zero, without a division.
    right, triangular = torch.linalg.qr(matrices.mT @ leading)
    return triangular.diagonal(dim1=-2, dim2=-1).abs(), right


def svd_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """The leading part of `torch.linalg.svd`: slow, and the reference for the others."""
    _, values, right_T = torch.linalg.svd(matrices, full_matrices=False)
    return values[..., :k], right_T[..., :k, :].mT


def auto_solver(matrices: Tensor, gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The fastest that was measured for this size: see benchmarks/results/svd.json."""
    m = gram.shape[-1]
    if gram.dtype == torch.float64 or m <= SMALL or 2 * (k + GUARD) > m:
        return gram_solver(matrices, gram, k)
    return subspace_solver(matrices, gram, k)


SMALL = 32
SOLVERS: dict[str, Solver] = {
    "auto": auto_solver,
    "subspace": subspace_solver,
    "gram": gram_solver,
    "svd": svd_solver,
}
