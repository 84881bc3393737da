"""Gradients of the leading singular vectors and values: exact, and as the paper prints them.

The k leading singular vectors and values, which `truncated_svd` returns, are called "kept".

Shapes: matrices M [B, N, D] with smaller Gram matrix G [B, m, m]; kept values s [B, k] with squares
lam; kept vectors V [B, D, k]. ``x_bar`` is the gradient of the loss with respect to x. In linear
systems, kept vectors Q, right-hand sides R and solutions X are rows [B, k, m]. ``G_perp`` is G
projected onto the complement of the kept vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdistill.linalg.precision import constant, is_accelerator, may_branch

# Both in units of eps lam_1, with eps the dtype's rounding error. A vector with lam below RESOLVED
# is rounding noise and gets no gradient. Below SHIFT, a gap's inverse is bounded by that of SHIFT.
RESOLVED = 16.0

SHIFT = 64.0

REFINEMENTS = 2

CONJUGATE_FROM = 48  # size from which conjugate gradients beat factorising, measured on a CPU

CONJUGATE_STEPS = 24

CONJUGATE_RESIDUAL = 32.0  # in eps |r|: a residual below it counts as converged


def are_resolved(lam: Tensor) -> Tensor:
    """A mask [B, k] of the kept values that exceed the rounding error of the Gram matrix."""
    return lam > RESOLVED * torch.finfo(lam.dtype).eps * lam[..., :1]


def gap_floor(lam: Tensor) -> Tensor:
    """The gap in ``s^2`` [..., 1] below which gradients are damped."""
    return SHIFT * torch.finfo(lam.dtype).eps * lam[..., :1]


def are_close(lam: Tensor) -> Tensor:
    """A mask [B] of matrices with a kept value within `gap_floor` of the next one, or of zero."""
    following = torch.cat([lam[..., 1:], torch.zeros_like(lam[..., :1])], dim=-1)
    return (lam - following <= gap_floor(lam)).any(-1)


def solve_complement(gram: Tensor, Q: Tensor, lam: Tensor, R: Tensor) -> Tensor:
    """Solve ``(lam_i I - G_perp) x_i = r_i`` for every kept i; x_i stays bounded as gaps close.

    On a CPU large systems are solved by conjugate gradients, except matrices for which these
    converge slowly because a value that is not kept is near a kept one: those are factorised.
    On an accelerator a triangular factor of each system is inverted.
    """
    resolved = are_resolved(lam)
    pivot = torch.where(resolved, lam, torch.where(lam[:, :1] > 0, lam[:, :1], 1.0))
    R = _project(torch.where(resolved[..., None], R, 0.0), Q)
    small = gram.shape[-1] < CONJUGATE_FROM or gram.dtype == torch.float64
    # Second derivatives need the factorisation: an iteration that stops early has no derivative.
    if is_accelerator(gram.device):
        return _inverted(gram, Q, lam, pivot, R)
    if small or torch.is_grad_enabled() or not may_branch(gram.device):
        return _factorised(gram, Q, lam, pivot, R)
    X, converged = _conjugate(gram, Q, pivot, R)
    if not bool(converged.all()):
        slow = (~converged).nonzero().squeeze(-1)
        X[slow] = _factorised(gram[slow], Q[slow], lam[slow], pivot[slow], R[slow])
    return X


def _conjugate(gram: Tensor, Q: Tensor, pivot: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions by conjugate gradients, and a mask [B] of the matrices that have converged."""
    X, rest, direction = torch.zeros_like(R), R, R
    squared = rest.square().sum(-1, keepdim=True)
    enough = (CONJUGATE_RESIDUAL * torch.finfo(R.dtype).eps) ** 2 * squared
    for _ in range(CONJUGATE_STEPS):
        going = squared > enough
        converged = ~going.any(-2).squeeze(-1)
        if bool(converged.all()):
            break
        image = pivot[..., None] * direction - _project(direction @ gram, Q)
        curvature = (direction * image).sum(-1, keepdim=True)
        # Converged systems are not updated: a result must not depend on the rest of the batch.
        going = going & (curvature > 0)
        step = torch.where(going, squared / torch.where(going, curvature, 1.0), 0.0)
        X = X + step * direction
        rest = rest - step * image
        before, squared = squared, rest.square().sum(-1, keepdim=True)
        direction = rest + squared / torch.where(before > 0, before, 1.0) * direction
    return X, converged


def _factorised(gram: Tensor, Q: Tensor, lam: Tensor, pivot: Tensor, R: Tensor) -> Tensor:
    """Solve by Cholesky factorisation of a system that a small shift keeps positive definite.

    Without the shift the system is singular where a kept value equals one that is not kept.
    Iterative refinement with the unshifted system removes the shift's error where they differ.
    """
    m = gram.shape[-1]
    identity = torch.eye(m, dtype=gram.dtype, device=gram.device)
    rest = gram - Q.mT @ (lam[..., None] * Q)
    system = pivot[..., None, None] * identity - rest[:, None]
    shift = gap_floor(lam)[..., None, None]
    factor, info = torch.linalg.cholesky_ex(system + shift * identity)
    failed = (info > 0)[..., None, None]
    factor = torch.where(failed, identity, factor)
    right = torch.where(failed, 0.0, R[..., None])
    solution = _cholesky_solve(factor, right)
    for _ in range(REFINEMENTS):
        solution = solution + _cholesky_solve(factor, right - system @ solution)
    return _project(torch.where(failed, 0.0, solution).squeeze(-1), Q)


def _inverted(gram: Tensor, Q: Tensor, lam: Tensor, pivot: Tensor, R: Tensor) -> Tensor:
    """Like `_factorised` in a third of the GPU kernels, by products with an inverted factor."""
    m = gram.shape[-1]
    identity = constant("identity", (m, m), gram)
    rest = gram - Q.mT @ (lam[..., None] * Q)
    diagonal = (pivot + gap_floor(lam))[..., None, None]
    factor, info = torch.linalg.cholesky_ex(torch.addcmul(-rest[:, None], diagonal, identity))
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)

    def solve(right: Tensor) -> Tensor:
        return (inverse.mT @ (inverse @ right[..., None])).squeeze(-1)

    X = solve(R)
    for _ in range(REFINEMENTS):
        X = X + solve(torch.addcmul(R + X @ rest, pivot[..., None], X, value=-1))
    return _project(torch.where((info > 0)[..., None], 0.0, X), Q)


def _cholesky_solve(factor: Tensor, right: Tensor) -> Tensor:
    """Like `torch.cholesky_solve`, which some CUDA builds cannot record in a graph."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def _project(X: Tensor, Q: Tensor) -> Tensor:
    return X - (X @ Q.mT) @ Q


Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def exact_gradient(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor
) -> Tensor:
    """The exact gradient from the kept vectors alone, as the product of `exact_factors`."""
    left, right = exact_factors(M, G, s, V, s_bar, V_bar)
    return left @ right.mT


def exact_factors(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """Two factors of the exact gradient, ``[M P, M V]`` [B, N, 2 k] and ``[V, W]`` [B, D, 2 k].

    With ``lam_i = s_i^2``, ``R = (I - V V^T) V_bar`` and
    ``F_ji = v_j^T vbar_i / (lam_i - lam_j)``::

        M_bar = M P V^T + M V W^T,   P = V (F + F^T + diag(s_bar / s)) + W

    where ``w_i`` solves ``(lam_i I - M_perp^T M_perp) w_i = r_i`` in the complement of the kept
    vectors. M is read twice and M_bar written once, which takes most of the time for large M.
    """
    lam = s.square()
    V_bar = torch.where(are_resolved(lam)[:, None, :], V_bar, 0.0)
    inner = V.mT @ V_bar
    F = inner * _inverse_gap(lam)
    R = V_bar - V @ inner
    ratio = _quotient(s_bar, s)
    among = F + F.mT + torch.diag_embed(ratio)
    N, D = M.shape[-2:]
    k = s.shape[-1]

    if D <= N:
        W = solve_complement(G, V.mT, lam, R.mT).mT
        MP, MV = (M @ torch.cat([V @ among + W, V], dim=-1)).split(k, dim=-1)
    else:
        MV, MR = (M @ torch.cat([V, R], dim=-1)).split(k, dim=-1)
        W = _wide_complement(M, G, s, V, R, MV, MR)
        MP = MV @ among + M @ W
    return torch.cat([MP, MV], dim=-1), torch.cat([V, W], dim=-1)


def exact_tangent(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, M_dot: Tensor
) -> tuple[Tensor, Tensor]:
    """The tangents of values and vectors for a tangent of the matrix (forward mode).

    With ``g_i = (M_dot^T M + M^T M_dot) v_i``, and ``w_i`` as in `exact_factors` for the right-hand
    side ``r_i = (I - V V^T) g_i``::

        s_dot_i = v_i^T g_i / (2 s_i),   v_dot_i = sum_j v_j (v_j^T g_i) / (lam_i - lam_j) + w_i
    """
    lam = s.square()
    N, D = M.shape[-2:]
    MV = M @ V
    moved = M_dot.mT @ MV + M.mT @ (M_dot @ V)
    inner = V.mT @ moved
    R = moved - V @ inner
    if D <= N:
        W = solve_complement(G, V.mT, lam, R.mT).mT
    else:
        W = _wide_complement(M, G, s, V, R, MV, M @ R)
    V_dot = torch.where(are_resolved(lam)[:, None, :], V @ (inner * _inverse_gap(lam)) + W, 0.0)
    return 0.5 * _quotient(inner.diagonal(dim1=-2, dim2=-1), s), V_dot


def _wide_complement(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, R: Tensor, MV: Tensor, MR: Tensor
) -> Tensor:
    """The ``w_i`` of `exact_factors` for D > N, from systems of size N instead of D.

    ``w_i = [r_i + M_perp^T (lam_i I - M_perp M_perp^T)^-1 M_perp r_i] / lam_i``
    """
    lam = s.square()
    resolved = are_resolved(lam)
    X = solve_complement(G, _quotient(MV, s[:, None, :]).mT, lam, MR.mT)
    W = R + (X @ M).mT
    W = W - V @ (V.mT @ W)
    return torch.where(resolved[:, None, :], W / torch.where(resolved, lam, 1.0)[:, None, :], 0.0)


def poster_gradient(
    M: Tensor,
    G: Tensor,  # noqa: ARG001
    s: Tensor,
    V: Tensor,
    s_bar: Tensor,  # noqa: ARG001
    V_bar: Tensor,
) -> Tensor:
    """The gradient that the paper's poster prints, which neglects all vectors that are not kept.

    With ``E = V_bar S^-1`` and ``K_ij = 1 / (s_i^2 - s_j^2)``, 0 on the diagonal::

        M_bar = U E^T - U (E^T V)_diag V^T - 2 U (K o (S V^T E))_sym S V^T   where N <= D
        M_bar = 2 U S (K^T o (V^T V_bar))_sym V^T                            where N > D

    The singular values receive no gradient. Source: Lee, Kim, Song, ECCV 2018, section 3.1.
    """
    lam = s.square()
    V_bar = torch.where(are_resolved(lam)[:, None, :], V_bar, 0.0)
    US = M @ V
    K_T = _inverse_gap(lam)
    N, D = M.shape[-2:]
    if N > D:
        return US @ _twice_symmetric(K_T * (V.mT @ V_bar)) @ V.mT
    U, E = _quotient(US, s[:, None, :]), _quotient(V_bar, s[:, None, :])
    coupling = _twice_symmetric(K_T.mT * (s[:, :, None] * (V.mT @ E)))
    return _uncoupled(U, E, V) - U @ coupling @ (V * s[:, None, :]).mT


def authors_gradient(
    M: Tensor,
    G: Tensor,  # noqa: ARG001
    s: Tensor,
    V: Tensor,
    s_bar: Tensor,  # noqa: ARG001
    V_bar: Tensor,
) -> Tensor:
    """The gradient of the paper's published code, for comparison: the poster's formula with K = 0.

    That code guards against the infinite diagonal of K, and thereby sets all of K to zero::

        M_bar = U E^T - U (E^T V)_diag V^T   where N < D
        M_bar = 0                            where N >= D
    """
    N, D = M.shape[-2:]
    if N >= D:
        return torch.zeros_like(M)
    V_bar = torch.where(are_resolved(s.square())[:, None, :], V_bar, 0.0)
    s = s[:, None, :]
    return _uncoupled(_quotient(M @ V, s), _quotient(V_bar, s), V)


def _uncoupled(U: Tensor, E: Tensor, V: Tensor) -> Tensor:
    """``U E^T - U (E^T V)_diag V^T``."""
    return U @ E.mT - (U * (E * V).sum(-2)[:, None, :]) @ V.mT


def _inverse_gap(lam: Tensor) -> Tensor:
    """1 / (lam_i - lam_j) at row j, column i; as the two values meet, it goes smoothly to 0."""
    gap = lam[:, None, :] - lam[:, :, None]
    floor = gap_floor(lam)[:, :, None]
    scale = gap.square() + floor.square()
    # On the diagonal the derivative must be 0 too; that of gap / scale would be 1 / floor^2.
    return gap / torch.where((scale > 0) & (gap != 0), scale, 1.0)


def _quotient(numerator: Tensor, s: Tensor) -> Tensor:
    """The numerator divided by singular values, which descend along the last axis.

    The quotient is 0 where a value is below the rounding error of the first. Values are masked
    before the division, so that no gradient is NaN.
    """
    above = s > torch.finfo(s.dtype).eps * s[..., :1]
    return torch.where(above, numerator / torch.where(above, s, 1.0), 0.0)


def _twice_symmetric(square: Tensor) -> Tensor:
    return square + square.mT


GRADIENTS: dict[str, Gradient] = {
    "exact": exact_gradient,
    "poster": poster_gradient,
    "authors": authors_gradient,
}
