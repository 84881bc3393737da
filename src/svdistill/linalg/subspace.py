"""Leading eigenpairs of Gram matrices: by block subspace iteration, of small ones directly.

`torch.linalg.eigh` reads its status on the host: code for accelerators uses `leading_of_small`.

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

# To the power 2^20 or 2^40: they resolve relative gaps of some 1e-5 and 1e-11.
SQUARINGS = {torch.float32: 20, torch.float64: 40}


def leading_of_small(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k leading eigenpairs by repeated squaring and deflation.

    ``H^(2^20)`` is ``v v^T`` of the leading vector, up to a factor; ``(I - v v^T) H (I - v v^T)``
    leads to the next. The number of kernels, some 45 for a pair, grows with k alone.

    Args:
        matrices: [B, q, q], symmetric, positive semi-definite.
        k: how many, at most q.

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
            # Projecting from both sides, unlike subtracting, leaves nothing of the found vectors.
            outside = outside - row.mT @ row
            rest = outside @ filled @ outside
    return ((found @ matrices) * found).sum(-1).clamp_min(0.0), found


def _filled(matrices: Tensor) -> Tensor:
    """Matrices [B, q, q] and, far below rounding, an identity: found where nothing else is left."""
    identity = constant("identity", matrices.shape[-2:], matrices)
    return matrices + torch.finfo(matrices.dtype).eps ** 2 * identity


def _repeatedly_squared(matrices: Tensor) -> Tensor:
    """Matrices [B, q, q] to the power of `SQUARINGS`, up to a factor."""
    limits = torch.finfo(matrices.dtype)
    # With a largest entry of 1, lam_1 lies between 1 and q: so often its square is in the range.
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
    """Decompose the batch; if one matrix fails, each alone, and that one in double precision.

    LAPACK fails for some finite matrices whose entries span the whole range of the dtype: it
    raises, or returns NaN.
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
    # Far below the rounding error of the largest entry; without them the iteration is shorter.
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

ROUNDS = 6  # at most

# Where nothing may be read: fewer rounds of more rows, which is as good and takes fewer kernels.
FIXED_ROUNDS = 3

FIXED_ROWS = 32

FIXED_CUT = 1e-2  # in place of `LOWEST_CUT`: more rows lose more to rounding

# In eps lam_i. With a gap of 1 % in s, it bounds an angle's sine to 0.0024 in float32, and a
# cosine's distance from 1 to 3e-6; a bound four times as large is 2 % faster.
BOUND = 400.0

RESIDUAL_FLOOR = 32.0  # in eps lam_1: the residual that rounding in G causes

# Largest distance of an entry of V^T V from the identity's.
ORTHONORMAL = {torch.float32: 1e-5, torch.float64: 1e-12}

LOWEST_CUT = 1e-4  # of lam_1: bounds how far the filter amplifies the leading vector


def block_rows(k: int) -> int:
    """Rows of a block for k vectors: k + 6 or more, a multiple of four.

    This aligns all members of a batch alike in memory, so that a CPU's products give the same bits
    at any place in a batch: a teacher's knowledge does not depend on its batch.
    """
    return -4 * (-(k + GUARD) // 4)


def leading_eigenpairs(gram: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k leading eigenpairs, and which members have converged.

    From a fixed random block of q rows, k + 6 or a few more, after two multiplications by G, each
    round applies the Chebyshev polynomial that damps everything below the block::

        X <- orthonormal(T_2(2 G / lam_q - 1) X),   T_2(y) = 2 y^2 - 1

    and takes Ritz vectors. Rounds end when all residuals ``|G x_i - lam_i x_i|`` are below their
    bound, or after six. On an accelerator 32 rows make three rounds, with Ritz vectors at the end
    only.

    Args:
        gram: [B, m, m], m at least `block_rows(k)`.
        k: how many.

    Returns:
        values [B, k], vectors as rows [B, k, m], and converged [B].

    Source: Zhou, Saad, Tiago, Chelikowsky, "Self-consistent-field calculations using
    Chebyshev-filtered subspace iteration", J. Comput. Phys. 219, 2006. Ours takes degree 2, since
    higher degrees lose the trailing vectors to rounding in float32.
    """
    m = gram.shape[-1]
    if not may_branch(gram.device):
        return _fixed_rounds(gram, k, rows=min(max(block_rows(k), FIXED_ROWS), m))
    X = _orthonormal(constant("start", (block_rows(k), m), gram) @ gram)
    X = _orthonormal(X @ gram)
    values, X, converged = _adaptive_rounds(gram, X, k)
    return values.clamp_min(0.0), polish(X), converged


def _adaptive_rounds(gram: Tensor, X: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds until all members have converged; once few are left, they go on alone.

    A member's result is that of the round in which it converges, whatever its batch.
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
    """The same few kernels for every batch; Ritz vectors at the end only."""
    filled = _filled(gram)
    X = _quickly_orthonormal(constant("start", (rows, gram.shape[-1]), gram) @ filled)
    X = _quickly_orthonormal(X @ filled)
    for _ in range(FIXED_ROUNDS):
        image = X @ filled
        lengths = torch.linalg.vector_norm(image, dim=-1)  # in Gram-Schmidt order: near the values
        top, cut = lengths.amax(-1, True), lengths.amin(-1, True)
        scale = (2.0 / torch.maximum(cut, FIXED_CUT * top))[..., None]
        # As `_filtered`, but for the sign.
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
    """Rows [..., k, m] that are nearly orthonormal, made orthonormal to rounding."""
    return 1.5 * X - 0.5 * (X @ X.mT) @ X


def are_orthonormal(X: Tensor) -> Tensor:
    """Mask [B] of members with rows [B, k, m] orthonormal within `ORTHONORMAL`; False for NaN."""
    error = (X @ X.mT - torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)).abs()
    return error.amax(dim=(-2, -1)) <= ORTHONORMAL[X.dtype]


def _filtered(gram: Tensor, X: Tensor, image: Tensor, top: Tensor, cut: Tensor) -> Tensor:
    """``orthonormal(T_2(2 G / cut - 1) X)`` with ``image = X G``: what is below the cut decays."""
    cut = torch.maximum(cut, LOWEST_CUT * top)
    scale = (2.0 / torch.where(cut > 0, cut, 1.0))[..., None]
    first = scale * image - X
    return _orthonormal(2.0 * (scale * (first @ gram) - first) - X)


def _ritz(gram: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values [B, q], descending, their vectors as rows, and these times G."""
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
    """CholeskyQR on rows of unit length, with a shift for parallel rows."""
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
