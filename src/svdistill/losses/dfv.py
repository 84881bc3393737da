"""Distillation feature vectors: the radial basis function between two sets of singular vectors.

Shapes: fronts [B, D_F, k], backs [B, D_B, k].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from svdistill.common import ArgumentError, require_positive
from svdistill.linalg import (
    constant,
    full_precision,
    is_traced,
    is_transformed,
    register_constant,
    uncompiled_if_lowered,
    working_dtype,
)

MAX_TERMS = 32

CHUNK_ELEMENTS = 2**22


def dfv(front: Tensor, back: Tensor, beta: float = 8.0) -> Tensor:
    """Distillation feature vectors of a pair of taps, by their definition.

    ``DFV[b, m, n, l] = exp(-(front[b, m, l] - back[b, n, l])^2 / beta)``

    Args:
        front: [B, D_F, k], weighted singular vectors of the front feature map.
        back: [B, D_B, k], weighted singular vectors of the back feature map.
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
    is the sum of ``(A^T A) o (B^T B)``. The columns are written as differences of student and
    teacher, so the distance of equals is 0, not a rounding error. The number of terms follows from
    beta; where it exceeds 32 (beta under about 0.2) the definition is evaluated in chunks. Autocast
    and TF32 are off inside; half precision is computed in float32.

    Args:
        student_front: [B, D_F, k], with entries in [-1, 1]; larger ones make the series inexact.
        student_back: [B, D_B, k], entries in the same range.
        teacher_front: [B, D_F, k], the same.
        teacher_back: [B, D_B, k], the same.
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
    dtype = working_dtype(student_front.dtype)
    S_F, S_B, T_F, T_B = (
        a.to(dtype) for a in (student_front, student_back, teacher_front, teacher_back)
    )
    terms = series_terms(beta, torch.finfo(dtype).eps)
    if terms > MAX_TERMS:
        distance = _distance_in_chunks(S_F, S_B, T_F, T_B, beta)
    else:
        distance = _distance_by_series(S_F, S_B, T_F, T_B, beta=beta, terms=terms)
    return distance.to(student_front.dtype)


def series_terms(beta: float, tolerance: float) -> int:
    """The number of terms whose sum differs from ``exp(x)``, ``|x| <= 2/beta``, by the tolerance.

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


@uncompiled_if_lowered
def _distance_by_series(first: Tensor, *others: Tensor, beta: float, terms: int) -> Tensor:
    sides = (first, *others)
    if not is_traced() and is_transformed():  # transforms derive plain operations to any order
        with full_precision(first.device):
            _, _, G_A, G_B = _products(sides, beta, terms)
            return (G_A * G_B).sum()
    distance: Tensor = _DistanceBySeries.apply(*sides, beta, terms)
    return distance


def _products(
    sides: Sequence[Tensor], beta: float, terms: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows A and B of `_DistanceBySeries`, the weighted Gram matrix of A, and that of B."""
    S_F, S_B, T_F, T_B = sides
    # Student and teacher have equal shapes: stacking them halves the number of kernels.
    (S_F, T_F), (S_B, T_B) = (
        _rows(torch.stack(pair), beta, terms) for pair in ((S_F, T_F), (S_B, T_B))
    )
    A = torch.cat([S_F - T_F, T_F], dim=-2)
    B = torch.cat([S_B, S_B - T_B], dim=-2)
    # u becomes 1 + u only now: differences were taken at full precision.
    A[..., terms + 1, :] += 1.0
    B[..., 0, :] += 1.0
    return A, B, _weight(terms, A) * (A @ A.mT), B @ B.mT


class _DistanceBySeries(torch.autograd.Function):
    """The distance of two products of few columns, and its gradient by hand.

    Columns lie as rows [B, k, P, D], longest side last. With ``x = sqrt(2/beta) a``, front and back
    of a student have the rows ``(1 + u), (1 + u) x, (1 + u) x^2, ...``, S_F and S_B, those of a
    teacher T_F and T_B. Since, with ``C = diag(1/p!)``::

        S_F^T C S_B - T_F^T C T_B = (S_F - T_F)^T C S_B + T_F^T C (S_B - T_B)

    the norm needs the small Gram matrices of ``A = [S_F - T_F; T_F]`` and ``B = [S_B; S_B - T_B]``.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *sides, beta, terms = arguments
        with full_precision(sides[0].device):
            A, B, G_A, G_B = _products(sides, beta, terms)
            ctx.save_for_backward(*sides, A, B, G_A, _weight(terms, A) * G_B)
        ctx.beta, ctx.terms = beta, terms
        return (G_A * G_B).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *sides, A, B, G_A, G_B = ctx.saved_tensors
        if torch.is_grad_enabled():  # what was saved beside the sides has no graph
            with full_precision(A.device):
                A, B, G_A, G_B = _products(sides, ctx.beta, ctx.terms)
                G_B = _weight(ctx.terms, A) * G_B
        half = A.shape[-2] // 2
        A_S, A_T = A[..., :half, :], A[..., half:, :]
        B_S, B_T = B[..., :half, :], B[..., half:, :]
        G_A_S, G_A_T = G_A[..., :half, :], G_A[..., half:, :]
        G_B_S, G_B_T = G_B[..., :half, :], G_B[..., half:, :]

        def gradient(place: int, rows: Tensor, gram: Tensor, factor: Tensor) -> Tensor | None:
            if not ctx.needs_input_grad[place]:
                return None
            return 2 * upstream * _rows_gradient(sides[place], rows, gram @ factor, ctx.beta)

        with full_precision(A.device):
            students = gradient(0, A_S + A_T, G_B_S, A), gradient(1, B_S, G_A_S + G_A_T, B)
            if not any(ctx.needs_input_grad[2:]):
                return (*students, None, None, None, None)
            teachers = gradient(2, A_T, G_B_T - G_B_S, A), gradient(3, B_S - B_T, -G_A_T, B)
            return (*students, *teachers, None, None)


def _rows(a: Tensor, beta: float, terms: int) -> Tensor:
    """``u, (1 + u) x, ..., (1 + u) x^P`` of a [..., D, k], as rows [..., k, P + 1, D]."""
    a = a.mT
    u = torch.expm1(a.square() / -beta)
    x = a * math.sqrt(2.0 / beta)
    rows = [u, (1.0 + u) * x]
    for _ in range(1, terms):
        rows.append(rows[-1] * x)
    return torch.stack(rows, dim=-2)


def _rows_gradient(a: Tensor, rows: Tensor, rows_bar: Tensor, beta: float) -> Tensor:
    """The gradient of a [B, D, k] from that of ``r_p = (1 + u) x^p``.

    ``dr_p/da = -2 a / beta r_p + p sqrt(2/beta) r_{p-1}``.
    """
    order = torch.arange(1, rows.shape[-2], dtype=rows.dtype, device=rows.device)[:, None]
    narrowing = (rows * rows_bar).sum(-2)
    rising = (rows[..., :-1, :] * (order * rows_bar[..., 1:, :])).sum(-2)
    return (math.sqrt(2.0 / beta) * rising - (2.0 / beta) * a.mT * narrowing).mT


def _weight(terms: int, like: Tensor) -> Tensor:
    """``1/p! 1/q!`` for every pair of rows."""
    return constant("inverse factorials", (2 * (terms + 1),) * 2, like)


def _inverse_factorials(shape: Sequence[int]) -> Tensor:
    factors = torch.tensor(
        [1.0 / math.factorial(p) for p in range(shape[0] // 2)] * 2,
        dtype=torch.float64,
        device="cpu",
    )
    return factors[:, None] * factors[None, :]


register_constant("inverse factorials", _inverse_factorials)


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

    if not is_traced() and is_transformed():  # transforms do not support checkpoints
        return distance(student_front, teacher_front)
    rows = max(1, CHUNK_ELEMENTS // max(1, student_back.numel()))
    total = student_front.new_zeros(())
    for student, teacher in zip(
        student_front.split(rows, dim=1), teacher_front.split(rows, dim=1), strict=True
    ):
        # Nothing in it is random; reading a GPU's random state synchronises with it.
        total = total + checkpoint(
            distance, student, teacher, use_reentrant=False, preserve_rng_state=False
        )
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
