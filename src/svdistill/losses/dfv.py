"""Distillation feature vectors: the radial basis function between two sets of singular vectors.

Shapes: fronts [B, D_F, k], backs [B, D_B, k].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from svdistill.errors import ArgumentError, require_positive
from svdistill.linalg import full_precision

MAX_TERMS = 32
CHUNK_ELEMENTS = 2**22


def dfv(front: Tensor, back: Tensor, beta: float = 8.0) -> Tensor:
    """Distillation feature vectors of a pair of taps, by their definition.

    ``DFV[b, m, n, l] = exp(-(front[b, m, l] - back[b, n, l])^2 / beta)``

    Args:
        front: [B, D_F, k], weighted singular vectors of the front feature map.
        back: [B, D_B, k], those of the back feature map.
        beta: width of the radial basis function, positive.

    Returns:
        [B, D_F, D_B, k], in (0, 1].

    Raises:
        ArgumentError: shapes that do not fit each other, or beta not positive.

    Example:
        >>> dfv(torch.tensor([[[0.0]]]), torch.tensor([[[0.0], [1.0]]]), beta=1.0)
        tensor([[[[1.0000],
                  [0.3679]]]])

    Source: Lee, Kim, Song, ECCV 2018, equation 4.
    """
    _check(front, back, beta)
    return torch.exp(-(front[:, :, None, :] - back[:, None, :, :]).square() / beta)


def dfv_distance(
    student_front: Tensor,
    student_back: Tensor,
    teacher_front: Tensor,
    teacher_back: Tensor,
    beta: float = 8.0,
) -> Tensor:
    """Sum of squared differences of two DFVs, at a cost of D_F + D_B instead of D_F * D_B.

    With ``u = expm1(-a^2/beta)`` and ``w = expm1(-b^2/beta)``::

        exp(-(a - b)^2/beta) = 1 + u + w + u w + sum_p f_p(a) f_p(b),  p = 1, 2, ...
        f_p(a) = (1 + u) sqrt((2/beta)^p / p!) a^p

    so the difference of two DFVs is a product ``A B^T`` of some 16 columns, and its squared norm
    the sum of ``(A^T A) o (B^T B)``. Every column of a student stands minus its teacher's once, so
    the distance of equals is 0, not a rounding error. The number of terms follows from beta;
    where more than 32 were needed (beta under about 0.2) the definition is evaluated in chunks.

    Args:
        student_front: [B, D_F, k], entries in [-1, 1]; beyond, the series is too short.
        student_back: [B, D_B, k], likewise.
        teacher_front: [B, D_F, k], likewise.
        teacher_back: [B, D_B, k], likewise.
        beta: width of the radial basis function, positive.

    Returns:
        A scalar, summed over everything.

    Raises:
        ArgumentError: shapes that do not fit each other, or beta not positive.

    Example:
        >>> student, teacher = torch.rand(2, 4, 256, 1) / 16
        >>> exact = (dfv(student, student) - dfv(teacher, teacher)).square().sum()
        >>> torch.allclose(dfv_distance(student, student, teacher, teacher), exact, rtol=1e-3)
        True

    Source: the definition is Lee, Kim, Song, ECCV 2018, section 3.3; the expansion is ours.
    """
    _check(student_front, student_back, beta)
    _check(teacher_front, teacher_back, beta)
    for side, student, teacher in (
        ("student_front", student_front, teacher_front),
        ("student_back", student_back, teacher_back),
    ):
        if student.shape != teacher.shape:
            raise ArgumentError(
                side,
                expected=f"the teacher's shape {tuple(teacher.shape)}",
                got=tuple(student.shape),
                remedy="compare vectors of the same taps and channels",
            )
    terms = series_terms(beta, torch.finfo(student_front.dtype).eps)
    if terms > MAX_TERMS:
        return _distance_in_chunks(student_front, student_back, teacher_front, teacher_back, beta)
    with full_precision(student_front.device):
        return _distance_by_series(
            student_front, student_back, teacher_front, teacher_back, beta, terms
        )


def series_terms(beta: float, tolerance: float) -> int:
    """How many terms leave ``exp(x)``, ``|x| <= 2/beta``, short by at most the tolerance.

    Example:
        >>> series_terms(8.0, 2e-8)
        6
    """
    x = 2.0 / beta
    if x > MAX_TERMS:
        return MAX_TERMS + 1
    terms, remainder = 0, x * math.exp(x)
    while remainder > tolerance and terms <= MAX_TERMS:
        terms += 1
        remainder *= x / (terms + 1)
    return max(terms, 1)


def _distance_by_series(
    student_front: Tensor,
    student_back: Tensor,
    teacher_front: Tensor,
    teacher_back: Tensor,
    beta: float,
    terms: int,
) -> Tensor:
    # One set of columns per image and vector: [B, D, k] -> [B, k, D, P].
    u_S, f_S = _columns(student_front.mT, beta, terms)
    u_T, f_T = _columns(teacher_front.mT, beta, terms)
    w_S, g_S = _columns(student_back.mT, beta, terms)
    w_T, g_T = _columns(teacher_back.mT, beta, terms)
    # f_S g_S - f_T g_T = (f_S - f_T) g_S + f_T (g_S - g_T), and the same for (1 + u)(1 + w).
    A = torch.cat([u_S - u_T, 1 + u_T, f_S - f_T, f_T], dim=-1)
    B = torch.cat([1 + w_S, w_S - w_T, g_S, g_S - g_T], dim=-1)
    return ((A.mT @ A) * (B.mT @ B)).sum()


def _columns(a: Tensor, beta: float, terms: int) -> tuple[Tensor, Tensor]:
    """``u`` [..., 1] and ``f_1, ..., f_P`` [..., P] of the entries of a [...]."""
    u = torch.expm1(-a.square() / beta)
    step = a * math.sqrt(2.0 / beta)
    power = 1 + u
    powers = []
    for p in range(1, terms + 1):
        power = power * step / math.sqrt(p)
        powers.append(power)
    return u[..., None], torch.stack(powers, dim=-1)


def _distance_in_chunks(
    student_front: Tensor,
    student_back: Tensor,
    teacher_front: Tensor,
    teacher_back: Tensor,
    beta: float,
) -> Tensor:
    """The definition over a few front channels at a time; recomputed in the backward pass."""

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        difference = dfv(student, student_back, beta) - dfv(teacher, teacher_back, beta)
        return difference.square().sum()

    rows = max(1, CHUNK_ELEMENTS // max(1, student_back.numel()))
    total = student_front.new_zeros(())
    for student, teacher in zip(
        student_front.split(rows, dim=1), teacher_front.split(rows, dim=1), strict=True
    ):
        total = total + checkpoint(distance, student, teacher, use_reentrant=False)
    return total


def _check(front: Tensor, back: Tensor, beta: float) -> None:
    require_positive("beta", beta)
    if front.ndim != 3 or back.ndim != 3:
        raise ArgumentError(
            "front and back",
            expected="shapes [B, D_F, k] and [B, D_B, k]",
            got=f"{tuple(front.shape)} and {tuple(back.shape)}",
            remedy="pass the vectors of a batch of images",
        )
    if front.shape[0] != back.shape[0] or front.shape[2] != back.shape[2]:
        raise ArgumentError(
            "back",
            expected=f"batch {front.shape[0]} and {front.shape[2]} vectors, as in front",
            got=f"batch {back.shape[0]} and {back.shape[2]} vectors",
            remedy="pass vectors of the same images",
        )
