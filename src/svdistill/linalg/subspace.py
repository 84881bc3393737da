"""Leading eigenpairs of Gram matrices, by block subspace iteration or, if small, by squaring.

`torch.linalg.eigh` makes the host wait for its status, so accelerators use `leading_of_small`.

Shapes: gram G [B, m, m], symmetric and positive semi-definite; blocks X [B, q, m] hold their
vectors as rows, which multiply G two to three times as fast as columns do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from svdistill.common import ArgumentError
from svdistill.linalg.precision import constant, may_branch, register_constant

# Numbers of squarings, for powers of 2^20 and 2^40. They resolve relative gaps between eigenvalues
# of about 1e-5 and 1e-11.
SQUARINGS = {torch.float32: 20, torch.float64: 40}


def leading_of_small(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k leading eigenpairs by repeated squaring and deflation.

    ``H^(2^20)`` is ``v v^T`` with the leading eigenvector v, up to a factor. The next eigenvector
    is that of ``(I - v v^T) H (I - v v^T)``. The number of GPU kernels depends on k only, with
    about 45 for each eigenpair.

    Args:
        matrices: [B, q, q], symmetric, positive semi-definite.
        k: number of eigenpairs, at most q.

    Returns:
        values [B, k], not negative, descending where separated; orthonormal rows [B, k, q].

    Example:
        >>> values, rows = leading_of_small(torch.diag(torch.tensor([1.0, 5.0, 2.0]))[None], 2)
        >>> values, rows.abs()
        (tensor([[5., 2.]]), tensor([[[0., 1., 0.],
                 [0., 0., 1.]]]))
    """
    q = matrices.shape[-1]
    outside = constant("identity", (q, q), matrices)
    rest = filled = _filled(matrices)
    found = matrices[:, :0]
    while found.shape[1] < k:
        power = _repeatedly_squared(rest)
        largest, best = power.diagonal(dim1=-2, dim2=-1).max(-1)
        row = power.gather(-2, best[:, None, None].expand(-1, 1, q)) / largest[:, None, None]
        if found.shape[1] > 0:
            row = row - (row @ found.mT) @ found
        row = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        found = torch.cat([found, row], dim=-2)
        if found.shape[1] < k:
            # Unlike subtraction, projection from both sides removes the found vectors completely.
            outside = outside - row.mT @ row
            rest = outside @ filled @ outside
    return ((found @ matrices) * found).sum(-1).clamp_min(0.0), found


def _filled(matrices: Tensor) -> Tensor:
    """Add a tiny multiple of the identity, so that vectors are found beyond a matrix's rank too."""
    identity = constant("identity", matrices.shape[-2:], matrices)
    return matrices + torch.finfo(matrices.dtype).eps ** 2 * identity


def _repeatedly_squared(matrices: Tensor) -> Tensor:
    """Square matrices [B, q, q] as often as `SQUARINGS` says, up to a factor."""
    limits = torch.finfo(matrices.dtype)
    # With a largest entry of 1, lam_1 is between 1 and q. It can be squared `often` times in a row
    # within the dtype's range.
    often = int(math.log2(126 / math.log2(max(matrices.shape[-1], 2))))
    for number in range(SQUARINGS[matrices.dtype]):
        if number % often == 0:
            largest = torch.linalg.vector_norm(matrices, torch.inf, dim=(-2, -1), keepdim=True)
            matrices = matrices / largest.clamp_min(limits.tiny)
        matrices = matrices @ matrices
    return matrices


Parts = tuple[Tensor, ...]


def eigh(symmetric: Tensor) -> Parts:
    """`torch.linalg.eigh` of matrices [B, m, m]: values, ascending, and vectors as columns."""
    return _robustly(lambda one: tuple(torch.linalg.eigh(one)), symmetric)


def svd(matrices: Tensor) -> Parts:
    """`torch.linalg.svd` of matrices [B, N, D], not full: U, values, V^T."""
    return _robustly(lambda one: tuple(torch.linalg.svd(one, full_matrices=False)), matrices)


def _robustly(decompose: Callable[[Tensor], Parts], matrices: Tensor) -> Parts:
    """Decompose a batch; if that fails, each matrix alone, and failing ones in double precision.

    LAPACK fails for some finite matrices whose entries span the whole range of the dtype: it
    reports an error, or returns NaN.
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
    # Entries far below the rounding error of the largest one; LAPACK converges faster without them.
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


GUARD = 6  # vectors carried beyond those wanted; measured fastest at 5 and 6

ROUNDS = 6  # maximum number

# Where Python may not read values: fewer rounds with more rows, as accurate with fewer kernels.
FIXED_ROUNDS = 3

FIXED_ROWS = 32

FIXED_CUT = 1e-2  # in place of `LOWEST_CUT`, since larger blocks have larger rounding errors

# Bound of a residual, in units of eps lam_i. In float32, with a gap of 1 % in s, it bounds the sine
# of a vector's error angle by 0.0024 and 1 - cosine by 3e-6. Four times the bound is 2 % faster.
BOUND = 400.0

RESIDUAL_FLOOR = 32.0  # in eps lam_1: the residual that rounding in G causes

# Largest allowed difference between an entry of V^T V and of the identity.
ORTHONORMAL = {torch.float32: 1e-5, torch.float64: 1e-12}

LOWEST_CUT = 1e-4  # of lam_1: bounds how far the filter amplifies the leading vector


def block_rows(k: int) -> int:
    """Number of rows of a block for k vectors: k + 6, rounded up to a multiple of four.

    The rounding aligns all matrices of a batch equally in memory, so that a CPU computes the same
    bits at any place in a batch: a teacher's knowledge does not depend on the batch.
    """
    return -4 * (-(k + GUARD) // 4)


def leading_eigenpairs(gram: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k leading eigenpairs, and which matrices of the batch have converged.

    The iteration starts with a fixed random block of q = `block_rows(k)` rows, multiplied by G
    twice. Each round applies the Chebyshev polynomial that damps eigenvalues below lam_q::

        X <- orthonormal(T_2(2 G / lam_q - 1) X),   T_2(y) = 2 y^2 - 1

    and then computes Ritz vectors. The iteration ends when all residuals ``|G x_i - lam_i x_i|``
    are below their bound, or after six rounds. On an accelerator it takes three rounds with at
    least 32 rows (at most m), and computes Ritz vectors only at the end.

    Args:
        gram: [B, m, m], m at least `block_rows(k)`.
        k: number of eigenpairs.

    Returns:
        values [B, k], vectors as rows [B, k, m], and converged [B].

    Source: Zhou, Saad, Tiago, Chelikowsky, "Self-consistent-field calculations using
    Chebyshev-filtered subspace iteration", J. Comput. Phys. 219, 2006. The degree here is 2, since
    with higher degrees rounding in float32 destroys the trailing vectors.
    """
    m = gram.shape[-1]
    if not may_branch(gram.device):
        return _fixed_rounds(gram, k, rows=min(max(block_rows(k), FIXED_ROWS), m))
    X = _orthonormal(constant("start", (block_rows(k), m), gram) @ gram)
    X = _orthonormal(X @ gram)
    values, X, converged = _adaptive_rounds(gram, X, k)
    return values.clamp_min(0.0), polish(X), converged


def _adaptive_rounds(gram: Tensor, X: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate until all matrices have converged; once few are left, continue with these alone.

    A matrix's result is that of the round in which it converges, whatever the rest of its batch.
    """
    B, _, m = X.shape
    found_values, found_X = gram.new_empty(B, k), gram.new_empty(B, k, m)
    found = torch.zeros(B, dtype=torch.bool, device=gram.device)
    converged = found.clone()
    members = torch.arange(B, device=gram.device)
    values, X, image = _ritz(gram, X)
    for round_ in range(ROUNDS + 1):
        good = _converged(values, X, image, k)
        taken = (good | (round_ == ROUNDS)) & ~found[members]
        rows = members[taken]
        found_values[rows], found_X[rows] = values[taken, :k], X[taken, :k]
        converged[rows], found[rows] = good[taken], True
        going = (~found[members]).nonzero().squeeze(-1)
        if len(going) == 0:
            break
        if len(going) <= len(members) // 3:
            members, gram, X = members[going], gram[going], X[going]
            image, values = image[going], values[going]
        X = _filtered(gram, X, image, values[:, :1], values[:, -1:])
        values, X, image = _ritz(gram, X)
    return found_values, found_X, converged


def _fixed_rounds(gram: Tensor, k: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate with a fixed sequence of operations, and compute Ritz vectors only at the end."""
    filled = _filled(gram)
    X = _quickly_orthonormal(constant("start", (rows, gram.shape[-1]), gram) @ filled)
    X = _quickly_orthonormal(X @ filled)
    for _ in range(FIXED_ROUNDS):
        image = X @ filled
        lengths = torch.linalg.vector_norm(image, dim=-1)  # approximately the eigenvalues
        top, cut = lengths.amax(-1, True), lengths.amin(-1, True)
        scale = (2.0 / torch.maximum(cut, FIXED_CUT * top))[..., None]
        # The same as in `_filtered`, but with the opposite sign of `first`.
        first = torch.addcmul(X, scale, image, value=-1)
        filtered = torch.addcmul(torch.sub(X, first, alpha=2), scale, first @ filled, value=2)
        X = _quickly_orthonormal(filtered)
    X = polish(_quickly_orthonormal(X))  # once more: the last block was nearly singular
    image = X @ gram
    values, weights = leading_of_small(_symmetric(image @ X.mT), k)
    X, image = weights @ X, weights @ image
    return values, X, _converged(values, X, image, k)


def _quickly_orthonormal(X: Tensor) -> Tensor:
    """`_orthonormal` in fewer kernels: the shift is relative to each row's length."""
    q = X.shape[-2]
    identity = constant("identity", (q, q), X)
    factor, info = torch.linalg.cholesky_ex(
        (X @ X.mT) * (1.0 + q * torch.finfo(X.dtype).eps * identity)
    )
    factor = torch.where((info > 0)[..., None, None], identity, factor)
    return torch.linalg.solve_triangular(factor, identity, upper=False) @ X


def polish(X: Tensor) -> Tensor:
    """Make nearly orthonormal rows [..., k, m] orthonormal up to rounding."""
    return 1.5 * X - 0.5 * (X @ X.mT) @ X


def are_orthonormal(X: Tensor) -> Tensor:
    """Whether the rows of each of [B, k, m] are orthonormal within `ORTHONORMAL`; False for NaN."""
    error = (X @ X.mT - torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)).abs()
    return error.amax(dim=(-2, -1)) <= ORTHONORMAL[X.dtype]


def _filtered(gram: Tensor, X: Tensor, image: Tensor, top: Tensor, cut: Tensor) -> Tensor:
    """``orthonormal(T_2(2 G / cut - 1) X)`` with ``image = X G``: values below the cut decay."""
    cut = torch.maximum(cut, LOWEST_CUT * top)
    scale = (2.0 / torch.where(cut > 0, cut, 1.0))[..., None]
    first = scale * image - X
    return _orthonormal(2.0 * (scale * (first @ gram) - first) - X)


def _ritz(gram: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values [B, q], descending, Ritz vectors as rows, and these rows times G."""
    image = X @ gram
    values, weights = eigh(_symmetric(image @ X.mT))
    weights = weights.flip(-1).mT
    return values.flip(-1), weights @ X, weights @ image


def _converged(values: Tensor, X: Tensor, image: Tensor, k: int) -> Tensor:
    values, X, image = values[:, :k], X[:, :k], image[:, :k]
    eps = torch.finfo(values.dtype).eps
    residual = torch.linalg.vector_norm(image - values[..., None] * X, dim=-1)
    bound = torch.maximum(BOUND * eps * values, RESIDUAL_FLOOR * eps * values[:, :1])
    return (residual <= bound).all(-1)


def _orthonormal(X: Tensor) -> Tensor:
    """Orthonormalise rows by CholeskyQR, after normalisation, with a shift for parallel rows."""
    X = X / torch.linalg.vector_norm(X, dim=-1, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)
    q = X.shape[-2]
    identity = torch.eye(q, dtype=X.dtype, device=X.device)
    factor, info = torch.linalg.cholesky_ex(X @ X.mT + 4 * q * torch.finfo(X.dtype).eps * identity)
    factor = torch.where((info > 0)[..., None, None], identity, factor)
    # Inverting the small factor and multiplying is six times as fast as solving for X.
    return torch.linalg.solve_triangular(factor, identity, upper=False) @ X


def _symmetric(small: Tensor) -> Tensor:
    return 0.5 * (small + small.mT)


def _start(shape: Sequence[int]) -> Tensor:
    """The same random block for every matrix and every call."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")


register_constant("start", _start)
register_constant("identity", lambda shape: torch.eye(*shape, dtype=torch.float64, device="cpu"))
