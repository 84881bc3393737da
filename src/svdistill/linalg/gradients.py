"""Gradients of the truncated SVD: from the k kept values and vectors to the matrix.

Shapes: matrices M [B, N, D] with smaller Gram matrix G [B, m, m], values s [B, k], vectors
V [B, D, k]; a bar marks a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdistill.linalg.complement import are_resolved, gap_floor, solve_complement

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def exact_gradient(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor
) -> Tensor:
    """The exact gradient, from the kept vectors alone.

    With ``lam_i = s_i^2``, ``R = (I - V V^T) V_bar`` and
    ``F_ji = v_j^T vbar_i / (lam_i - lam_j)``::

        M_bar = M P V^T + M V W^T,   P = V (F + F^T + diag(s_bar / s)) + W

    where ``w_i`` solves ``(lam_i I - M_perp^T M_perp) w_i = r_i`` in the complement of the kept
    vectors. M is read twice and M_bar written once, which is what large maps cost.
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
    return torch.cat([MP, MV], dim=-1) @ torch.cat([V, W], dim=-1).mT


def exact_tangent(
    M: Tensor, G: Tensor, s: Tensor, V: Tensor, M_dot: Tensor
) -> tuple[Tensor, Tensor]:
    """How values and vectors move where the matrix does: forward mode.

    With ``g_i = (M_dot^T M + M^T M_dot) v_i`` and ``w_i`` as in `exact_gradient`, of the part of
    ``g_i`` outside of the kept vectors::

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
    """The ``w_i`` of `exact_gradient` where D > N, from systems of size N.

    ``w_i = [r_i + M_perp^T (lam_i I - M_perp M_perp^T)^-1 M_perp r_i] / lam_i``
    """
    lam = s.square()
    resolved = are_resolved(lam)
    X = solve_complement(G, _divide(MV, s).mT, lam, MR.mT)
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
    """The gradient as the poster prints it: it drops the complement of the kept vectors.

    With ``E = V_bar S^-1`` and ``K_ij = 1 / (s_i^2 - s_j^2)``, 0 on the diagonal::

        M_bar = U E^T - U (E^T V)_diag V^T - 2 U (K o (S V^T E))_sym S V^T   where N <= D
        M_bar = 2 U S (K^T o (V^T V_bar))_sym V^T                            where N > D

    The singular values receive no gradient there. Source: Lee, Kim, Song, ECCV 2018, section 3.1.
    """
    lam = s.square()
    V_bar = torch.where(are_resolved(lam)[:, None, :], V_bar, 0.0)
    US = M @ V
    K_T = _inverse_gap(lam)
    N, D = M.shape[-2:]
    if N > D:
        return US @ _twice_symmetric(K_T * (V.mT @ V_bar)) @ V.mT
    U, E = _divide(US, s), _divide(V_bar, s)
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
    """What the paper's authors' code computes: the poster's formula with K all zero.

    A guard against the infinite diagonal of K runs before that is masked, and empties K::

        M_bar = U E^T - U (E^T V)_diag V^T   where N < D
        M_bar = 0                            where N >= D

    It is here to be compared with.
    """
    N, D = M.shape[-2:]
    if N >= D:
        return torch.zeros_like(M)
    V_bar = torch.where(are_resolved(s.square())[:, None, :], V_bar, 0.0)
    return _uncoupled(_divide(M @ V, s), _divide(V_bar, s), V)


def _uncoupled(U: Tensor, E: Tensor, V: Tensor) -> Tensor:
    """``U E^T - U (E^T V)_diag V^T``."""
    return U @ E.mT - (U * (E * V).sum(-2)[:, None, :]) @ V.mT


def _inverse_gap(lam: Tensor) -> Tensor:
    """1 / (lam_i - lam_j) at row j, column i; smoothly to 0 where two values meet."""
    gap = lam[:, None, :] - lam[:, :, None]
    floor = gap_floor(lam)[:, :, None]
    scale = gap.square() + floor.square()
    # A value's gap to itself has no derivative, though the quotient's would be 1 / floor^2.
    return gap / torch.where((scale > 0) & (gap != 0), scale, 1.0)


def _divide(columns: Tensor, s: Tensor) -> Tensor:
    """Columns over their singular values."""
    return _quotient(columns, s[:, None, :])


def _quotient(numerator: Tensor, s: Tensor) -> Tensor:
    """Over the singular values, which descend along the last axis: mask, then divide.

    0 where a value is rounding beside the first: what it would stretch is no smaller than that.
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
