"""The public function and the autograd node that joins a solver with a gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from svdistill.errors import ArgumentError, require_choice
from svdistill.linalg.gradients import GRADIENTS
from svdistill.linalg.precision import full_precision, working_dtype
from svdistill.linalg.solvers import SOLVERS


class TruncatedSVD(NamedTuple):
    """Leading singular values [..., k], descending, and right singular vectors [..., D, k]."""

    singular_values: Tensor
    right_vectors: Tensor


def truncated_svd(
    matrices: Tensor, k: int, *, gradient: str = "exact", solver: str = "auto"
) -> TruncatedSVD:
    """The k leading singular values and right singular vectors, differentiable.

    ``M = U S V^T``; returned are the first k of ``diag(S)`` and of the columns of ``V``. A vector's
    sign is free; here its entry of largest magnitude is positive, so that all solvers agree.

    The values are differentiable wherever they are distinct and positive, each vector wherever its
    value is separated from every other. Elsewhere a true gradient does not exist, and the one
    returned is finite: the inverse of a gap in ``s^2`` is bounded by a few ``1 / (64 eps s_1^2)``,
    and a vector whose ``s^2`` is below ``16 eps s_1^2`` (float32: ``s < 1.4e-3 s_1``) gets none. A
    matrix with an entry that is not finite gives NaN for itself and leaves the others alone.

    Args:
        matrices: [..., N, D], floating point. Half precision is computed in float32 and returned
            in its own dtype; float64 stays. Autocast and TF32 are off inside.
        k: how many to keep, 1 to min(N, D).
        gradient: `"exact"`, from the kept vectors alone, or `"poster"`, the seed paper's formula,
            which is exact only with k = min(N, D) and gives singular values no gradient.
        solver: `"gram"` (eigenvectors of the smaller Gram matrix; resolves values down to some
            1e-3 of the largest in float32), `"svd"` (`torch.linalg.svd`), or `"auto"`.

    Returns:
        `TruncatedSVD(singular_values [..., k], right_vectors [..., D, k])`.

    Raises:
        ArgumentError: k out of range, fewer than two dimensions, not floating point, or an
            unknown gradient or solver.

    Example:
        >>> svd = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), k=1)
        >>> svd.singular_values, svd.right_vectors
        (tensor([3.]), tensor([[1.],
                [0.]]))

    Source: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value
    Decomposition", ECCV 2018. Its gradient drops the vectors that were not kept; ours does not.
    """
    _check(matrices, k)
    require_choice("gradient", gradient, GRADIENTS)
    require_choice("solver", solver, SOLVERS)
    dtype = matrices.dtype
    singular_values, right_vectors = _TruncatedSVD.apply(
        matrices.to(working_dtype(dtype)), k, gradient, solver
    )
    return TruncatedSVD(singular_values.to(dtype), right_vectors.to(dtype))


class _TruncatedSVD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrices: Tensor, k: int, gradient: str, solver: str
    ) -> tuple[Tensor, Tensor]:
        with full_precision(matrices.device):
            scaled, scale = _scale(matrices)
            s, V = _canonical(*SOLVERS[solver](scaled, k))
        ctx.save_for_backward(matrices, s, V)
        ctx.gradient = gradient
        # NaN in, NaN out: a zero matrix was decomposed in the place of a broken one.
        finite = torch.isfinite(scale)
        return (
            torch.where(finite[..., None], s * scale[..., None], torch.nan),
            torch.where(finite[..., None, None], V, torch.nan),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, s_bar: Tensor, V_bar: Tensor) -> tuple[Tensor, None, None, None]:
        matrices, s, V = ctx.saved_tensors
        with full_precision(matrices.device):
            scaled, scale = _scale(matrices)
            matrices_bar = GRADIENTS[ctx.gradient](scaled, s, V, s_bar * scale[..., None], V_bar)
            return matrices_bar / scale[..., None, None], None, None, None


def _scale(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each matrix by a power of two, so that its Gram matrix neither over- nor underflows.

    The scale [...] of a matrix that is not finite is not finite; the matrix comes back as zeros.
    """
    largest = matrices.abs().amax(dim=(-2, -1))
    scale = torch.where(largest > 0, torch.exp2(torch.log2(largest).floor()), 1.0)
    scale = torch.where(torch.isfinite(largest), scale, torch.nan)
    finite = torch.isfinite(scale)[..., None, None]
    return torch.where(finite, matrices / scale[..., None, None], 0.0), scale


def _canonical(values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Descending values; in every vector the entry of largest magnitude is positive."""
    values, order = values.sort(dim=-1, descending=True)
    vectors = vectors.gather(-1, order[..., None, :].expand_as(vectors))
    largest = vectors.gather(-2, vectors.abs().argmax(dim=-2, keepdim=True))
    return values, torch.where(largest < 0, -vectors, vectors)


def _check(matrices: Tensor, k: int) -> None:
    if matrices.ndim < 2 or not matrices.is_floating_point():
        raise ArgumentError(
            "matrices",
            expected="a floating-point tensor [..., N, D]",
            got=f"{matrices.dtype} of shape {tuple(matrices.shape)}",
            remedy="pass a matrix or a batch of matrices",
        )
    smaller = min(matrices.shape[-2:])
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= smaller:
        raise ArgumentError(
            "k",
            expected=f"an integer from 1 to {smaller}, the smaller side of the "
            f"{matrices.shape[-2]}x{matrices.shape[-1]} matrices",
            got=repr(k),
            remedy="keep fewer vectors" if smaller else "pass matrices that are not empty",
        )
