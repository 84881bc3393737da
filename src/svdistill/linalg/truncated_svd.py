"""The function `truncated_svd`, and the autograd nodes that join a solver with a gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svdistill.common import ArgumentError, require_choice
from svdistill.linalg.gradients import GRADIENTS, are_close, exact_factors, exact_tangent
from svdistill.linalg.precision import (
    fitted,
    full_precision,
    is_accelerator,
    is_traced,
    is_transformed,
    may_branch,
    powers_of_two,
    to_working,
    uncompiled_if_lowered,
)
from svdistill.linalg.solvers import SOLVERS, count_differentiated, smaller_gram

# A gradient may reach this fraction of the dtype's maximum, so that a million of them can be added.
HEADROOM = 2.0**-20

VANISHING = 2.0**100  # a divisor that turns subnormal numbers into zero


class TruncatedSVD(NamedTuple):
    """Leading singular values [..., k], descending, and right singular vectors [..., D, k]."""

    singular_values: Tensor
    right_vectors: Tensor


def truncated_svd(
    matrices: Tensor, k: int, *, gradient: str = "exact", solver: str = "auto"
) -> TruncatedSVD:
    """The k leading singular values and right singular vectors, differentiable.

    With ``M = U S V^T``, the function returns the first k entries of ``diag(S)`` and the first k
    columns of ``V``. The SVD leaves a vector's sign open; here the entry of largest magnitude is
    positive, so that all solvers agree.

    Singular values are differentiable if they are distinct and positive, a vector if its value is
    separated from all others. Elsewhere the returned gradient is still finite: the inverse of a gap
    in ``s^2`` is bounded by a few ``1 / (64 eps s_1^2)``, and a vector with ``s^2`` below
    ``16 eps s_1^2`` (float32: ``s < 1.4e-3 s_1``) receives no gradient. A matrix with an entry that
    is not finite gives NaN for itself and does not affect the other matrices.

    Each matrix is decomposed independently, after division by a power of two if its products would
    leave the dtype's range. A matrix whose entries are all zero or subnormal counts as zero. A
    gradient too large for the dtype, as of a matrix with entries near 1e-35, is scaled down. The
    returned vectors are orthonormal to 1e-5, in float64 to 1e-12.

    On a CPU the solvers stop once they have converged, and decompose the matrices that have not
    converged with a slower method. On an accelerator the number of operations is fixed and the host
    never waits (except for `"svd"`); `watch_convergence` counts matrices that have not converged.

    Args:
        matrices: [..., N, D], floating point. Half precision is computed in float32 and returned
            in its own dtype; float64 stays. Autocast and TF32 are off within the function.
        k: how many values and vectors to return, 1 to min(N, D).
        gradient: `"exact"`, from the kept vectors alone; `"poster"`, the paper's formula,
            which is exact only with k = min(N, D) and gives singular values no gradient; or
            `"authors"`, as the paper's published code computes it: the formula without its matrix
            K, and zero if N >= D.
        solver: `"subspace"` (block subspace iteration on the smaller Gram matrix, for the leading
            vectors alone), `"gram"` (eigenvectors of that Gram matrix; `"subspace"` falls back to
            it on a CPU for matrices that have not converged), `"svd"` (`torch.linalg.svd`), or
            `"auto"`, the faster of the first two. In float32, `"subspace"` and `"gram"` resolve
            values down to about 1e-3 of the largest.

    Returns:
        `TruncatedSVD(singular_values [..., k], right_vectors [..., D, k])`.

    Raises:
        ArgumentError: k is out of range, matrices has fewer than two dimensions or is not floating
            point, or the gradient or solver is unknown.

    The exact gradient has derivatives of any order and supports `torch.func` (grad, vmap, jvp,
    jacrev, hessian). The gradients `"poster"` and `"authors"` are not the derivative of any
    function: differentiating them again, or in forward mode, raises `ArgumentError`.

    Example:
        >>> svd = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), k=1)
        >>> svd.singular_values, svd.right_vectors
        (tensor([3.]), tensor([[1.],
                [0.]]))

    Source: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value
    Decomposition", ECCV 2018. Its gradient neglects all vectors beyond the first
    k; the exact gradient does not.
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
    """Decompose matrices [B, N, D] with the autograd node that suits the caller.

    Transforms of `torch.func` and forward mode need another node than plain autograd.
    """
    node = _TransformedSVD if not is_traced() and is_transformed() else _TruncatedSVD
    decomposed: tuple[Tensor, Tensor] = node.apply(matrices, k, gradient, solver)
    return decomposed


class _Solved(NamedTuple):
    """Matrices divided by their scale, with their smaller Gram matrix, singular values and vectors.

    The scale is None if no matrix needs one, and NaN for a matrix that is not finite.
    """

    matrices: Tensor
    gram: Tensor
    scale: Tensor | None
    s: Tensor
    V: Tensor

    def outputs(self) -> tuple[Tensor, Tensor]:
        """The singular values and vectors of the matrices before division by their scale."""
        if self.scale is None:
            return self.s.clone(), self.V.clone()
        # A matrix that is not finite gives NaN, even if zeros were decomposed in its place.
        one = self.scale / self.scale
        return self.s * self.scale[:, None], self.V * one[:, None, None]


def _solved(matrices: Tensor, k: int, solver: str) -> _Solved:
    with full_precision(matrices.device):
        gram = scale = None
        if may_branch(matrices.device):
            gram = smaller_gram(matrices)
        if gram is None or not _is_ordinary(gram):
            scale = _scale(matrices)
            matrices = _scaled(matrices, scale)
            gram = smaller_gram(matrices)
        s, V = _canonical(*SOLVERS[solver](matrices, gram, k))
    return _Solved(matrices, gram, scale, s, V)


class _TruncatedSVD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrices: Tensor, k: int, gradient: str, solver: str
    ) -> tuple[Tensor, Tensor]:
        solved = _solved(matrices, k, solver)
        ctx.save_for_backward(matrices, *solved)
        ctx.k, ctx.gradient, ctx.solver = k, gradient, solver
        return solved.outputs()

    @staticmethod
    def backward(ctx: Any, s_bar: Tensor, V_bar: Tensor) -> tuple[Tensor, None, None, None]:
        matrices, *saved = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_traced():  # only the saved M has a graph
            s, V = _TruncatedSVD.apply(matrices, ctx.k, ctx.gradient, ctx.solver)
            return _tracked(matrices, s, V, s_bar, V_bar, ctx.gradient), None, None, None
        solved = _Solved(*saved)
        count_differentiated(are_close, solved.s.square())
        with full_precision(matrices.device):
            return _gradient(solved, s_bar, V_bar, ctx.gradient), None, None, None


class _TransformedSVD(torch.autograd.Function):
    """The autograd node for `torch.func`, under which it may save only its inputs and outputs."""

    @staticmethod
    def forward(matrices: Tensor, k: int, gradient: str, solver: str) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return _solved(matrices, k, solver).outputs()

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
            scale, scaled, s, V = _rescaled(matrices, s, V)
            M_dot = M_dot / scale[:, None, None]
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
    """The gradient computed from the node's inputs and outputs, to be differentiated again."""
    with full_precision(matrices.device):
        scale, scaled, s, V = _rescaled(matrices, s, V)
        solved = _Solved(scaled, smaller_gram(scaled), scale, s, V)
        matrices_bar = _gradient(solved, s_bar, V_bar, gradient)
    if gradient == "exact":
        return matrices_bar
    refused: Tensor = _NoFurther.apply(matrices_bar, matrices, gradient)
    return refused


def _gradient(solved: _Solved, s_bar: Tensor, V_bar: Tensor, gradient: str) -> Tensor:
    """The gradient for the original matrices, scaled down where it would overflow."""
    M, G, scale, s, V = solved
    if scale is None:
        return GRADIENTS[gradient](M, G, s, V, s_bar, V_bar)
    s_bar = s_bar * scale[:, None]
    limit = torch.finfo(M.dtype).max * HEADROOM
    if gradient != "exact":
        return fitted(GRADIENTS[gradient](M, G, s, V, s_bar, V_bar), limit, 1.0 / scale)
    left, right = exact_factors(M, G, s, V, s_bar, V_bar)
    # The factors' longest rows bound every entry of their product. The product itself, which is as
    # large as M, need not be read for this.
    largest = [torch.linalg.vector_norm(one.detach(), dim=-1).amax(-1) for one in (left, right)]
    room = limit / (largest[0] * largest[1]).clamp_min(torch.finfo(M.dtype).tiny)
    return (left * torch.minimum(1.0 / scale, room)[:, None, None]) @ right.mT


class _NoFurther(torch.autograd.Function):
    """The identity of a gradient, which raises an error when it is differentiated."""

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
    """Whether all matrices are finite and can be differentiated without being scaled first.

    The gradient squares differences of squared singular values, so fourth powers of the matrices'
    entries must neither overflow nor underflow. The diagonal of the Gram matrix bounds its entries.
    """
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    limits = torch.finfo(gram.dtype)
    return bool(((largest > limits.tiny**0.25) & (largest < limits.max**0.5)).all())


def _scale(matrices: Tensor) -> Tensor:
    """A divisor [B] for each matrix, so that no Gram matrix overflows or underflows.

    It is NaN for a matrix that is not finite. Division turns a matrix whose entries are all zero or
    subnormal into zeros.
    """
    largest = torch.linalg.vector_norm(matrices, torch.inf, dim=(-2, -1))
    normal = largest >= torch.finfo(matrices.dtype).tiny
    scale = torch.where(normal, powers_of_two(largest), VANISHING)
    return torch.where(torch.isfinite(largest), scale, torch.nan)


def _rescaled(matrices: Tensor, s: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The matrices' scale, matrices and values divided by it, and vectors (NaN for a NaN scale)."""
    scale = _scale(matrices.detach())
    return scale, _scaled(matrices, scale), s / scale[:, None], _scaled(V, scale / scale)


def _scaled(matrices: Tensor, scale: Tensor) -> Tensor:
    """The matrices divided by their scale; one that is not finite gives NaN, or zeros on a CPU."""
    scaled = matrices / scale[:, None, None]
    if is_accelerator(matrices.device):
        return scaled
    return torch.where(torch.isfinite(scale)[:, None, None], scaled, 0.0)


def _canonical(values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the values in descending order, and make each vector's largest entry positive."""
    if values.shape[-1] > 1:
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
