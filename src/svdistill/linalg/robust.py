"""LAPACK's decompositions, also of the matrices on which its iteration gives up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from svdistill.errors import ArgumentError
from svdistill.linalg.branching import may_branch

Parts = tuple[Tensor, ...]


def eigh(symmetric: Tensor) -> Parts:
    """`torch.linalg.eigh` of matrices [B, m, m]: values, ascending, and vectors as columns."""
    return _robustly(lambda one: tuple(torch.linalg.eigh(one)), symmetric)


def svd(matrices: Tensor) -> Parts:
    """`torch.linalg.svd` of matrices [B, N, D], not full: U, values, V^T."""
    return _robustly(lambda one: tuple(torch.linalg.svd(one, full_matrices=False)), matrices)


def _robustly(decompose: Callable[[Tensor], Parts], matrices: Tensor) -> Parts:
    """All at once; where one does not converge each by itself, that one in double precision.

    The others come out as they would without it. It happens to finite matrices whose entries
    span the whole range of the dtype: LAPACK says so, or says nothing and returns NaN.
    """
    try:
        parts = decompose(matrices)
        if not may_branch(matrices.device) or _are_finite(parts):
            return parts
    except torch.linalg.LinAlgError:
        pass
    each = [_alone(decompose, one[None]) for one in matrices]
    return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


def _are_finite(parts: Parts) -> bool:
    return bool(torch.stack([part.isfinite().all() for part in parts]).all())


def _alone(decompose: Callable[[Tensor], Parts], matrix: Tensor) -> Parts:
    wide = matrix.double()
    # Far below rounding beside the largest entry; without them the iteration has less to do.
    negligible = wide.abs() < 1e-3 * torch.finfo(wide.dtype).eps * wide.abs().amax()
    for attempt in (matrix, wide, wide.masked_fill(negligible, 0.0)):
        with suppress(torch.linalg.LinAlgError):
            parts = tuple(part.to(matrix.dtype) for part in decompose(attempt))
            if _are_finite(parts):
                return parts
    raise ArgumentError(
        "matrices",
        expected="finite numbers that LAPACK can decompose",
        got=f"one of shape {tuple(matrix.shape[1:])} on which it does not converge",
        remedy="look for features that differ by more than the dtype's precision; scale them",
    )
