"""The public function and the autograd node that joins a solver with a gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svdistill.common import ArgumentError, require_choice
from svdistill.linalg.convergence import count_differentiated
from svdistill.linalg.gradients import GRADIENTS, are_close, exact_tangent
from svdistill.linalg.precision import (
    fitted,
    full_precision,
    is_traced,
    is_transformed,
    may_branch,
    powers_of_two,
    to_working,
    uncompiled_if_lowered,
)
from svdistill.linalg.solvers import SOLVERS, smaller_gram

HEADROOM = 2.0**-20  # of the dtype's range: a million gradients that fill it can be added up

VANISHING = 2.0**100  # divided by it, what is below the normal numbers is zero


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

    Each matrix is computed as if it were alone, over a power of two where its scale needs that. One
    without a normal number counts as zero; a gradient that the dtype cannot hold, as of a matrix of
    1e-35, is scaled down to what it can, its direction kept. Vectors are orthonormal to 1e-5, in
    float64 to 1e-12: what the fast solver leaves farther off is computed again.

    Args:
        matrices: [..., N, D], floating point. Half precision is computed in float32 and returned
            in its own dtype; float64 stays. Autocast and TF32 are off inside.
        k: how many to keep, 1 to min(N, D).
        gradient: `"exact"`, from the kept vectors alone; `"poster"`, the paper's formula,
            which is exact only with k = min(N, D) and gives singular values no gradient; or
            `"authors"`, what its authors' code computes: of that formula what is left without K,
            and nothing at all where N >= D.
        solver: `"subspace"` (block subspace iteration on the smaller Gram matrix, for the leading
            vectors alone; members that it leaves above its residual bound are computed by `"gram"`,
            see `watch_convergence`), `"gram"` (all eigenvectors of that matrix), `"svd"`
            (`torch.linalg.svd`), or `"auto"`, the faster of the first two. Those two resolve values
            down to some 1e-3 of the largest in float32.

    Returns:
        `TruncatedSVD(singular_values [..., k], right_vectors [..., D, k])`.

    Raises:
        ArgumentError: k out of range, fewer than two dimensions, not floating point, or an
            unknown gradient or solver.

    Derivatives of any order, and `torch.func` (grad, vmap, jvp, jacrev, hessian), are those of the
    exact gradient. The other two are no function's derivative: to differentiate them again, or
    forward, raises `ArgumentError`.

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
    dtype, batch = matrices.dtype, matrices.shape[:-2]
    singular_values, right_vectors = _decompose(
        to_working(matrices.reshape(-1, *matrices.shape[-2:])), k, gradient, solver
    )
    return TruncatedSVD(
        singular_values.to(dtype).reshape(*batch, k),
        right_vectors.to(dtype).reshape(*batch, matrices.shape[-1], k),
    )


@uncompiled_if_lowered
def _decompose(matrices: Tensor, k: int, gradient: str, solver: str) -> tuple[Tensor, Tensor]:
    """Of matrices [B, N, D], by the node that the way of differentiating takes."""
    traced = is_traced()
    node = _TransformedSVD if not traced and is_transformed() else _TruncatedSVD
    decomposed: tuple[Tensor, Tensor] = node.apply(matrices, k, gradient, solver)
    return decomposed


def _solved(matrices: Tensor, k: int, solver: str) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gram matrix, scale if there is one, and what was found of the matrices over their scale."""
    with full_precision(matrices.device):
        gram = smaller_gram(matrices)
        scale = None if _is_ordinary(gram) else _scale(matrices)
        if scale is not None:
            gram = smaller_gram(_scaled(matrices, scale))
        s, V = _canonical(*SOLVERS[solver](_scaled(matrices, scale), gram, k))
    return gram, scale, s, V


def _unscaled(scale: Tensor | None, s: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    if scale is None:
        return s.clone(), V.clone()
    # NaN in, NaN out: a zero matrix was decomposed in the place of a broken one.
    finite = torch.isfinite(scale)
    return (
        torch.where(finite[:, None], s * scale[:, None], torch.nan),
        torch.where(finite[:, None, None], V, torch.nan),
    )


class _TruncatedSVD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrices: Tensor, k: int, gradient: str, solver: str
    ) -> tuple[Tensor, Tensor]:
        gram, scale, s, V = _solved(matrices, k, solver)
        ctx.save_for_backward(matrices, gram, scale, s, V)
        ctx.k, ctx.gradient, ctx.solver = k, gradient, solver
        return _unscaled(scale, s, V)

    @staticmethod
    def backward(ctx: Any, s_bar: Tensor, V_bar: Tensor) -> tuple[Tensor, None, None, None]:
        matrices, gram, scale, s, V = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_traced():  # of what was saved only M has a graph
            s, V = _TruncatedSVD.apply(matrices, ctx.k, ctx.gradient, ctx.solver)
            return _tracked(matrices, s, V, s_bar, V_bar, ctx.gradient), None, None, None
        gradient = GRADIENTS[ctx.gradient]
        count_differentiated(are_close(s.square()))
        with full_precision(matrices.device):
            if scale is None:
                return gradient(matrices, gram, s, V, s_bar, V_bar), None, None, None
            s_bar = s_bar * scale[:, None]
            matrices_bar = gradient(_scaled(matrices, scale), gram, s, V, s_bar, V_bar)
            limit = torch.finfo(matrices.dtype).max * HEADROOM
            return fitted(matrices_bar, limit, 1.0 / scale), None, None, None


class _TransformedSVD(torch.autograd.Function):
    """The same for `torch.func`, which lets a node save what it takes and returns, nothing else."""

    @staticmethod
    def forward(matrices: Tensor, k: int, gradient: str, solver: str) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        _, scale, s, V = _solved(matrices, k, solver)
        return _unscaled(scale, s, V)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], *output)
        ctx.save_for_forward(inputs[0], *output)
        ctx.gradient = inputs[2]

    @staticmethod
    def backward(ctx: Any, s_bar: Tensor, V_bar: Tensor) -> tuple[Tensor, None, None, None]:
        matrices, s, V = ctx.saved_tensors
        return _tracked(matrices, s, V, s_bar, V_bar, ctx.gradient), None, None, None

    @staticmethod
    def jvp(ctx: Any, M_dot: Tensor, *_options: None) -> tuple[Tensor, Tensor]:
        if ctx.gradient != "exact":
            raise _no_function(ctx.gradient)
        matrices, s, V = ctx.saved_tensors
        with full_precision(matrices.device):
            scale = _scale(matrices.detach())
            scaled, M_dot = _scaled(matrices, scale), M_dot / scale[:, None, None]
            s, V = s / scale[:, None], _scaled(V, scale / scale)
            s_dot, V_dot = exact_tangent(scaled, smaller_gram(scaled), s, V, M_dot)
            return s_dot * scale[:, None], V_dot

    @staticmethod
    def vmap(
        _info: Any, in_dims: tuple[Any, ...], matrices: Tensor, k: int, gradient: str, solver: str
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        matrices = matrices.movedim(in_dims[0], 0)
        batch = matrices.shape[:2]
        s, V = _TransformedSVD.apply(matrices.flatten(0, 1), k, gradient, solver)
        return (s.reshape(*batch, k), V.reshape(*batch, *V.shape[1:])), (0, 0)


def _tracked(
    matrices: Tensor, s: Tensor, V: Tensor, s_bar: Tensor, V_bar: Tensor, gradient: str
) -> Tensor:
    """The gradient as a function of what the node took and returned, to differentiate again."""
    with full_precision(matrices.device):
        scale = _scale(matrices.detach())
        scaled = _scaled(matrices, scale)
        s, s_bar, V = s / scale[:, None], s_bar * scale[:, None], _scaled(V, scale / scale)
        matrices_bar = GRADIENTS[gradient](scaled, smaller_gram(scaled), s, V, s_bar, V_bar)
        limit = torch.finfo(matrices.dtype).max * HEADROOM
        matrices_bar = fitted(matrices_bar, limit, 1.0 / scale)
    if gradient == "exact":
        return matrices_bar
    refused: Tensor = _NoFurther.apply(matrices_bar, matrices, gradient)
    return refused


class _NoFurther(torch.autograd.Function):
    """Passes a gradient on, and refuses to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrices_bar: Tensor, matrices: Tensor, gradient: str) -> Tensor:  # noqa: ARG004
        return matrices_bar.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.gradient = inputs[2]

    @staticmethod
    def backward(ctx: Any, _bar: Tensor) -> tuple[Tensor, Tensor, None]:
        raise _no_function(ctx.gradient)

    @staticmethod
    def jvp(ctx: Any, *_tangents: Tensor) -> Tensor:
        raise _no_function(ctx.gradient)


def _no_function(gradient: str) -> ArgumentError:
    return ArgumentError(
        "gradient",
        expected="'exact' where it is differentiated again, or forward",
        got=repr(gradient),
        remedy="only the exact gradient is a function's derivative",
    )


def _is_ordinary(gram: Tensor) -> bool:
    """Whether no entry was NaN or infinite, and no fourth power near the ends of the dtype's range.

    Those are the squares of gaps that the gradient damps. The diagonal alone tells, at no cost;
    where Python may not look, everything is scaled.
    """
    if not may_branch(gram.device):
        return False
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    limits = torch.finfo(gram.dtype)
    return bool(((largest > limits.tiny**0.25) & (largest < limits.max**0.5)).all())


def _scale(matrices: Tensor) -> Tensor:
    """By what [B] to divide each matrix, so that its Gram matrix neither over- nor underflows.

    Not finite for a matrix that is not finite. One without a normal number becomes zero.
    """
    largest = torch.linalg.vector_norm(matrices, torch.inf, dim=(-2, -1))
    normal = largest >= torch.finfo(matrices.dtype).tiny
    scale = torch.where(normal, powers_of_two(largest), VANISHING)
    return torch.where(torch.isfinite(largest), scale, torch.nan)


def _scaled(matrices: Tensor, scale: Tensor | None) -> Tensor:
    """The matrices over their scale; zeros in the place of a matrix that is not finite."""
    if scale is None:
        return matrices
    finite = torch.isfinite(scale)[:, None, None]
    return torch.where(finite, matrices / scale[:, None, None], 0.0)


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
