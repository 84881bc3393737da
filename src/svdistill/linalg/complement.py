"""Shifted systems in the complement of the kept vectors, which the exact gradient needs.

Shapes: gram G [B, m, m]; kept unit vectors Q as rows [B, k, m], with values lam [B, k]; right-hand
sides R and solutions X as rows [B, k, m]. ``G_perp`` is G without the kept vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svdistill.linalg.branching import may_branch

# In units of the dtype's rounding error, relative to lam_1. Below RESOLVED a vector is rounding
# noise: it gets no gradient. SHIFT bounds the inverse of a gap.
RESOLVED = 16.0
SHIFT = 64.0
REFINEMENTS = 2
CONJUGATE_FROM = 48  # size from which conjugate gradients beat factorising, measured on a CPU
CONJUGATE_STEPS = 24
CONJUGATE_RESIDUAL = 32.0  # eps |r|


def are_resolved(lam: Tensor) -> Tensor:
    """Which kept values stand above the rounding error of the Gram matrix."""
    return lam > RESOLVED * torch.finfo(lam.dtype).eps * lam[..., :1]


def gap_floor(lam: Tensor) -> Tensor:
    """The gap in ``s^2`` [..., 1] below which gradients are damped."""
    return SHIFT * torch.finfo(lam.dtype).eps * lam[..., :1]


def are_close(lam: Tensor) -> Tensor:
    """Which members have a kept value no farther than that from the next kept one, or from zero."""
    following = torch.cat([lam[..., 1:], torch.zeros_like(lam[..., :1])], dim=-1)
    return (lam - following <= gap_floor(lam)).any(-1)


def solve_complement(gram: Tensor, Q: Tensor, lam: Tensor, R: Tensor) -> Tensor:
    """Solve ``(lam_i I - G_perp) x_i = r_i`` for every kept i; bounded where a gap closes.

    By conjugate gradients where few products with G cost less than k factorisations; members that
    converge slowly, since a discarded value is near a kept one, are factorised.
    """
    resolved = are_resolved(lam)
    pivot = torch.where(resolved, lam, torch.where(lam[:, :1] > 0, lam[:, :1], 1.0))
    R = _project(torch.where(resolved[..., None], R, 0.0), Q)
    small = gram.shape[-1] < CONJUGATE_FROM or gram.dtype == torch.float64
    # Second derivatives go through the factorisation: what iterations stop at has no derivative.
    if small or torch.is_grad_enabled() or not may_branch(gram.device):
        return _factorised(gram, Q, lam, pivot, R)
    X, converged = _conjugate(gram, Q, pivot, R)
    if not bool(converged.all()):
        slow = (~converged).nonzero().squeeze(-1)
        X[slow] = _factorised(gram[slow], Q[slow], lam[slow], pivot[slow], R[slow])
    return X


def _conjugate(gram: Tensor, Q: Tensor, pivot: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Conjugate gradients on all systems at once; which members [B] have converged."""
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
        # What has converged stays as it is: it must not depend on the rest of its batch.
        going = going & (curvature > 0)
        step = torch.where(going, squared / torch.where(going, curvature, 1.0), 0.0)
        X = X + step * direction
        rest = rest - step * image
        before, squared = squared, rest.square().sum(-1, keepdim=True)
        direction = rest + squared / torch.where(before > 0, before, 1.0) * direction
    return X, converged


def _factorised(gram: Tensor, Q: Tensor, lam: Tensor, pivot: Tensor, R: Tensor) -> Tensor:
    """Cholesky, with a small shift that keeps the system definite where values meet.

    Refining against the unshifted system removes the shift's error where there is a gap.
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


def _cholesky_solve(factor: Tensor, right: Tensor) -> Tensor:
    """As `torch.cholesky_solve`, which some CUDA builds cannot capture in a graph."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def _project(X: Tensor, Q: Tensor) -> Tensor:
    return X - (X @ Q.mT) @ Q
