"""Gradients of the truncated SVD: from the k kept values and vectors to the matrix.

Shapes: matrices M [..., N, D], values s [..., k], vectors V [..., D, k]; a bar marks a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

# In units of the dtype's rounding error, relative to the largest squared singular value.
# Below RESOLVED a vector is rounding noise: it gets no gradient. SHIFT bounds the inverse of a gap.
RESOLVED = 16.0
SHIFT = 64.0
REFINEMENTS = 2


def exact_gradient(M: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor) -> Tensor:
    """The exact gradient, from the kept vectors alone.

    With ``lam_i = s_i^2``, ``R = (I - V V^T) V_bar`` and
    ``F_ji = v_j^T vbar_i / (lam_i - lam_j)``::

        M_bar = U S (F + F^T) V^T + M W V^T + U S W^T + U diag(s_bar) V^T

    where ``w_i`` solves ``(lam_i I - M^T M) w_i = r_i`` in the complement of the kept vectors.
    """
    lam = s.square()
    resolved = _resolved(lam)
    V_bar = torch.where(resolved[..., None, :], V_bar, 0.0)
    US = M @ V

    inner = V.mT @ V_bar
    F = inner * _inverse_gap(lam)
    R = V_bar - V @ inner
    N, D = M.shape[-2:]
    W = (
        _complement_tall(M, V, lam, resolved, R)
        if D <= N
        else _complement_wide(M, V, US, lam, resolved, R)
    )

    U_s_bar = _divide(US, s) * s_bar[..., None, :]
    return (US @ (F + F.mT) + M @ W + U_s_bar) @ V.mT + US @ W.mT


def poster_gradient(M: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor) -> Tensor:  # noqa: ARG001
    """The gradient as the poster prints it: it drops the complement of the kept vectors.

    With ``E = V_bar S^-1`` and ``K_ij = 1 / (s_i^2 - s_j^2)``, 0 on the diagonal::

        M_bar = U E^T - U (E^T V)_diag V^T - 2 U (K o (S V^T E))_sym S V^T   where N <= D
        M_bar = 2 U S (K^T o (V^T V_bar))_sym V^T                            where N > D

    The singular values receive no gradient there. Source: Lee, Kim, Song, ECCV 2018, section 3.1.
    """
    lam = s.square()
    V_bar = torch.where(_resolved(lam)[..., None, :], V_bar, 0.0)
    US = M @ V
    K_T = _inverse_gap(lam)
    N, D = M.shape[-2:]
    if N > D:
        return US @ _twice_symmetric(K_T * (V.mT @ V_bar)) @ V.mT
    U = _divide(US, s)
    E = _divide(V_bar, s)
    diagonal = (E * V).sum(-2)
    coupling = _twice_symmetric(K_T.mT * (s[..., :, None] * (V.mT @ E)))
    return U @ E.mT - (U * diagonal[..., None, :]) @ V.mT - U @ coupling @ (V * s[..., None, :]).mT


def _complement_tall(M: Tensor, V: Tensor, lam: Tensor, resolved: Tensor, R: Tensor) -> Tensor:
    """D <= N: w_i = (lam_i I - M_perp^T M_perp)^-1 r_i."""
    gram_perp = M.mT @ M - (V * lam[..., None, :]) @ V.mT
    W = _solve_shifted(gram_perp, lam, resolved, R)
    return W - V @ (V.mT @ W)


def _complement_wide(
    M: Tensor, V: Tensor, US: Tensor, lam: Tensor, resolved: Tensor, R: Tensor
) -> Tensor:
    """N < D: w_i = [r_i + M_perp^T (lam_i I - M_perp M_perp^T)^-1 M_perp r_i] / lam_i."""
    gram_perp = M @ M.mT - US @ US.mT
    X = _solve_shifted(gram_perp, lam, resolved, M @ R)
    W = R + M.mT @ X
    W = W - V @ (V.mT @ W)
    return torch.where(
        resolved[..., None, :], W / torch.where(resolved, lam, 1.0)[..., None, :], 0.0
    )


def _solve_shifted(gram_perp: Tensor, lam: Tensor, resolved: Tensor, R: Tensor) -> Tensor:
    """Solve ``(lam_i I - G_perp) x_i = r_i`` for every kept i; bounded where a gap closes.

    Cholesky with a small shift keeps the system definite where a discarded value equals a kept
    one. Refining against the unshifted system removes the shift's error where there is a gap.
    """
    top = lam[..., :1]
    shift = SHIFT * torch.finfo(lam.dtype).eps * top
    pivot = torch.where(resolved, lam, torch.where(top > 0, top, 1.0))
    identity = torch.eye(gram_perp.shape[-1], dtype=lam.dtype, device=lam.device)
    system = pivot[..., None, None] * identity - gram_perp[..., None, :, :]
    factor, info = torch.linalg.cholesky_ex(system + shift[..., None, None] * identity)
    failed = (info > 0)[..., None, None]
    factor = torch.where(failed, identity, factor)
    rhs = torch.where(failed, 0.0, R.mT[..., None])

    solution = torch.cholesky_solve(rhs, factor)
    for _ in range(REFINEMENTS):
        solution = solution + torch.cholesky_solve(rhs - system @ solution, factor)
    return torch.where(failed, 0.0, solution).squeeze(-1).mT


def _resolved(lam: Tensor) -> Tensor:
    """Which kept values stand above the rounding error of the Gram matrix."""
    return lam > RESOLVED * torch.finfo(lam.dtype).eps * lam[..., :1]


def _inverse_gap(lam: Tensor) -> Tensor:
    """1 / (lam_i - lam_j) at row j, column i; smoothly to 0 where two values meet."""
    gap = lam[..., None, :] - lam[..., :, None]
    floor = SHIFT * torch.finfo(lam.dtype).eps * lam[..., :1, None]
    scale = gap.square() + floor.square()
    return gap / torch.where(scale > 0, scale, 1.0)


def _divide(columns: Tensor, s: Tensor) -> Tensor:
    """Columns over their singular values, 0 where the value is 0: mask, then divide."""
    positive = s > 0
    return torch.where(
        positive[..., None, :], columns / torch.where(positive, s, 1.0)[..., None, :], 0.0
    )


def _twice_symmetric(square: Tensor) -> Tensor:
    return square + square.mT


GRADIENTS: dict[str, Gradient] = {"exact": exact_gradient, "poster": poster_gradient}
