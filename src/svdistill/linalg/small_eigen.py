"""Leading eigenpairs of small matrices in one fixed sequence of kernels, without a host's look.

`torch.linalg.eigh` checks its status on the host, which a CUDA graph cannot do.
"""

from __future__ import annotations

import torch
from torch import Tensor

SQUARINGS = 20  # to the power 2^20: resolves a relative gap of some 1e-5


def leading_of_small(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k leading eigenpairs by repeated squaring and deflation.

    ``(H / trace H)^(2^20)`` is ``v v^T`` of the leading vector, up to a factor; ``H - lam v v^T``
    leads to the next. Kernels grow with k, not with the matrices.

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
    found = matrices.new_zeros(len(matrices), 0, q)
    values = []
    rest = matrices
    for _ in range(k):
        power = rest
        for _ in range(SQUARINGS):
            power = _unit_trace(power)
            power = power @ power
        # Where nothing is left, the projector on what has not been found stands in for it.
        outside = torch.eye(q, dtype=rest.dtype, device=rest.device) - found.mT @ found
        diagonal = power.diagonal(dim1=-2, dim2=-1)
        empty = ~(diagonal.amax(-1) > 0)
        power = torch.where(empty[:, None, None], outside, power)
        best = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
        vector = power.gather(-2, best[:, None, None].expand(-1, 1, q))
        vector = vector - (vector @ found.mT) @ found
        vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        value = ((vector @ matrices) * vector).sum((-2, -1))
        found = torch.cat([found, vector], dim=-2)
        values.append(value.clamp_min(0.0))
        # Projecting from both sides, unlike subtracting, leaves no trace of what was found.
        outside = outside - vector.mT @ vector
        rest = outside @ matrices @ outside
    return torch.stack(values, dim=-1), found


def _unit_trace(power: Tensor) -> Tensor:
    trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return power / torch.where(trace > 0, trace, 1.0)
