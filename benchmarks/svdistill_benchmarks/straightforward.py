"""The paper's method as one would first write it: the baseline that ours is measured against.

`torch.linalg.svd` of every matrix with torch's own gradient, every entry of the distillation
feature vectors in memory, two gradients clipped one parameter at a time. It shares no code with
`SVDLoss`, so it also is a reference: both must give the same loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

BETA = 8.0


def leading_svd(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values [B, k] and right vectors [B, D, k] of matrices [B, N, D], from the whole SVD."""
    _, values, right_T = torch.linalg.svd(matrices, full_matrices=False)
    return values[:, :k], right_T[:, :k].mT


def explicit_distance(
    student_front: Tensor, student_back: Tensor, teacher_front: Tensor, teacher_back: Tensor
) -> Tensor:
    """Sum of squared differences of two DFVs, each written out as [B, D_F, D_B, k]."""
    student = torch.exp(-((student_front[:, :, None] - student_back[:, None]) ** 2) / BETA)
    teacher = torch.exp(-((teacher_front[:, :, None] - teacher_back[:, None]) ** 2) / BETA)
    return ((student - teacher) ** 2).sum()


def straightforward_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], k: int = 1
) -> Tensor:
    """The paper's loss of maps [B, D, H, W], with the sign convention of `truncated_svd`.

    Args:
        student_features: the student's taps, with their graph.
        teacher_features: the teacher's.
        k: singular vectors that the teacher passes on.

    Returns:
        A scalar.

    Example:
        >>> from svdistill.losses import SVDLoss
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> student, teacher = ([torch.rand(2, 8, 4, 4) for _ in range(2)] for _ in range(2))
        >>> ours = SVDLoss()
        >>> expected = ours(student, torch.empty(0), ours.extract(teacher, None))
        >>> torch.allclose(straightforward_loss(student, teacher), expected, rtol=1e-4)
        True
    """
    students, teachers = [], []
    for student_map, teacher_map in zip(student_features, teacher_features, strict=True):
        with torch.no_grad():
            sigma, V_T = leading_svd(teacher_map.flatten(2).mT, k)
            largest = V_T.gather(1, V_T.abs().argmax(dim=1, keepdim=True))
            V_T = V_T * largest.sign()
            weight = (sigma / sigma.norm(dim=1, keepdim=True))[:, None]
        _, V_S = leading_svd(_finite_gradient(student_map.flatten(2).mT), k + 1)
        cosine = V_T.mT @ V_S.detach()
        choice = cosine.abs().argmax(dim=2, keepdim=True)
        sign = cosine.gather(2, choice).sign()
        chosen = V_S.gather(2, choice.mT.expand(-1, V_S.shape[1], -1)) * sign.mT
        students.append(weight * chosen)
        teachers.append(weight * V_T)
    distances = [
        explicit_distance(*student, *teacher)
        for student, teacher in zip(pairwise(students), pairwise(teachers), strict=True)
    ]
    return torch.stack(distances).sum()


def clipped_gradients(
    task_loss: Tensor, transfer_loss: Tensor, parameters: Sequence[nn.Parameter], progress: float
) -> None:
    """Fill `.grad` with the task's gradient plus the transfer's, clipped by norm per tensor."""
    transfer = torch.autograd.grad(transfer_loss, parameters, retain_graph=True, allow_unused=True)
    task = torch.autograd.grad(task_loss, parameters)
    share = torch.sigmoid(torch.tensor(progress))
    for parameter, g, h in zip(parameters, task, transfer, strict=True):
        if h is None:
            parameter.grad = g
        else:
            scale = (share * g.norm() / h.norm().clamp_min(1e-12)).clamp(max=1.0)
            parameter.grad = g + scale * h


def _finite_gradient(matrices: Tensor) -> Tensor:
    """Put zero where torch's gradient of the SVD is not finite: equal values divide by zero."""
    if matrices.requires_grad:
        matrices.register_hook(partial(torch.nan_to_num, nan=0.0, posinf=0.0, neginf=0.0))
    return matrices
