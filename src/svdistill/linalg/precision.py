"""Numerical precision, constant tensors, and when Python code may read a tensor's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_accelerator(device: torch.device) -> bool:
    """Whether a device is not the CPU, so that reading a value makes the host wait for it."""
    return device.type != "cpu"


def is_transformed() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp) or forward mode is active."""
    return _in_functorch() or forward_ad._current_level >= 0


def _in_functorch() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


def is_traced() -> bool:
    """Whether operations are recorded instead of run: by torch.compile, export or make_fx."""
    if torch.compiler.is_compiling():
        return True
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY))


def may_branch(device: torch.device) -> bool:
    """Whether Python may read a tensor's value and branch on it: on a CPU, untraced, untransformed.

    If so, a solver may stop once it has converged, and repeat what has not converged. Otherwise the
    sequence of operations is fixed: the host never waits for an accelerator, and operations can be
    recorded in a CUDA graph.
    """
    return not (is_accelerator(device) or is_traced() or _in_functorch())


P = ParamSpec("P")

R = TypeVar("R")

FULL: Final = ("ieee", "none")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower becomes float32.

    Example:
        >>> working_dtype(torch.bfloat16), working_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_working(features: Tensor) -> Tensor:
    """Features [B, ...] in the dtype to compute in; gradients return in the features' dtype.

    The gradient of a sample may exceed float16's maximum of 65504 if its map is tiny or two of its
    singular values are close. Such a gradient is scaled down to a quarter of the maximum, so that a
    few of them can be added.

    Example:
        >>> features = torch.full((2, 1), 3.0, dtype=torch.float16, requires_grad=True)
        >>> (to_working(features) * torch.tensor([[1.0], [1e9]])).sum().backward()
        >>> features.grad
        tensor([[1.0000e+00],
                [1.6376e+04]], dtype=torch.float16)
    """
    dtype = working_dtype(features.dtype)
    if features.dtype != torch.float16 or is_widened_plainly():
        return features.to(dtype)
    widened: Tensor = _Widened.apply(features, dtype)
    return widened


def is_widened_plainly() -> bool:
    """Whether float16 is converted by `Tensor.to` alone, as `torch.func` requires."""
    return not torch.compiler.is_compiling() and is_transformed()


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = features.dtype
        return features.to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return fitted(gradient, torch.finfo(ctx.dtype).max / 4).to(ctx.dtype), None


def fitted(gradient: Tensor, limit: float, factor: Tensor | None = None) -> Tensor:
    """Multiply a gradient [B, ...] by factors [B], reduced so that no entry exceeds a limit."""
    if gradient.numel() == 0:
        return gradient
    others = (1,) * (gradient.ndim - 1)
    largest = torch.linalg.vector_norm(gradient.detach().flatten(1), torch.inf, dim=1)
    room = limit / torch.where(largest > 0, largest, 1.0)
    factor = room.clamp(max=1.0) if factor is None else torch.minimum(factor, room)
    return gradient * factor.view(-1, *others)


def largest_magnitude(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest magnitude along some dimensions, which are kept with size 1."""
    if is_accelerator(tensor.device):
        return torch.linalg.vector_norm(tensor, torch.inf, dim=dims, keepdim=True)
    return tensor.abs().amax(dim=dims, keepdim=True)  # on a CPU ten times as fast


def powers_of_two(largest: Tensor) -> Tensor:
    """The largest power of two that is not above each positive number; dividing by it is exact.

    Example:
        >>> powers_of_two(torch.tensor([0.3, 1.0, 5.0]))
        tensor([0.2500, 1.0000, 4.0000])
    """
    # The logarithm of the largest numbers is rounded up to that of infinity, hence the clamp.
    top = math.frexp(torch.finfo(largest.dtype).max)[1] - 1
    return torch.exp2(torch.log2(largest).floor().clamp(max=top))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off for the block, and TF32 or bf16 inside float32 products.

    A Gram matrix squares the condition number, so TF32's ten bits of mantissa could not resolve a
    second singular vector. The settings of torch's older and newer interface are restored after the
    block. Traced code cannot record this switch, see `uncompiled_if_lowered`.
    """
    with torch.autocast(device.type, enabled=False):
        if is_traced():
            yield
            return
        restore = _raise_precision(device.type)
        try:
            yield
        finally:
            restore()


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Leave a function out of compiled graphs.

    Unlike `torch.compiler.disable`, this imports the compiler only in programs that compile.
    """
    eager = torch._disable_dynamo(function)

    @wraps(function)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return chosen


def uncompiled_if_lowered(function: Callable[P, R]) -> Callable[P, R]:
    """Leave a function out of compiled graphs while CUDA computes float32 products in TF32 or bf16.

    A graph cannot contain the switch of `full_precision`. The first argument must be a tensor.
    """
    eager = torch._disable_dynamo(function)

    @wraps(function)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() and args[0].device.type == "cuda" and _is_lowered():  # type: ignore[attr-defined]
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return chosen


def _is_lowered() -> bool:
    matmul = torch.backends.cuda.matmul
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        return bool(matmul.allow_tf32)
    return matmul.fp32_precision not in FULL


# The effect of `torch.compiler.assume_constant_result`, which would import the compiler. A compiled
# graph is guarded by torch's own precision flag, so that it is compiled again if the flag changes.
_is_lowered.__dict__["_dynamo_marked_constant"] = True


def _raise_precision(device_type: str) -> Callable[[], None]:
    """Compute float32 products in float32; returns a function that restores the setting."""
    cuda = torch.backends.cuda.matmul
    if not hasattr(torch._C, "_get_fp32_precision_getter"):  # torch before 2.9
        return _raise_legacy() if device_type == "cuda" and cuda.allow_tf32 else _nothing
    mkldnn: Any = torch.backends.mkldnn  # its `matmul` is new in torch 2.9
    matmul = {"cuda": cuda, "cpu": mkldnn.matmul}.get(device_type)
    if matmul is None or matmul.fp32_precision in FULL:
        return _nothing
    before = matmul.fp32_precision
    if device_type == "cuda" and (legacy := _legacy_precision()) is not None:
        # Both interfaces must agree within the block too: reading one that disagrees raises.
        beside = mkldnn.matmul.fp32_precision
        cuda.allow_tf32 = False

        def restore() -> None:
            torch.set_float32_matmul_precision(legacy)
            _restore(mkldnn.matmul, beside)
            _restore(cuda, before)

        return restore
    matmul.fp32_precision = "ieee"
    return partial(_restore, matmul, before)


def _raise_legacy() -> Callable[[], None]:
    before = torch.get_float32_matmul_precision()
    torch.backends.cuda.matmul.allow_tf32 = False
    return partial(torch.set_float32_matmul_precision, before)


def _legacy_precision() -> str | None:
    """The older interface's setting; None if the newer one disagrees."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _restore(matmul: Any, before: str) -> None:
    """Restore a setting; inherit it from a more general setting if that has the same value."""
    matmul.fp32_precision = "none"
    if matmul.fp32_precision != before:
        matmul.fp32_precision = before


def _nothing() -> None:
    """Do nothing, where no setting has to be restored."""


# Constant tensors, made once for each dtype and device. In traced code a constant is the result of
# an operator, `svdistill::constant`, so that a tracer sees nothing but its shape.

Maker = Callable[[Sequence[int]], Tensor]

_makers: dict[str, Maker] = {}


def register_constant(name: str, maker: Maker) -> None:
    """Register a constant by name; its maker takes a shape, returns float64 on the CPU."""
    _makers[name] = maker


def constant(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """The constant of a name and shape, in the dtype and on the device of `like`.

    It is made only once, since a copy to a GPU synchronises. Do not modify it in place.
    """
    if is_traced() or type(like) is not Tensor:
        made: Tensor = torch.ops.svdistill.constant(like, name, shape)
        return made
    if is_transformed():  # tensors made within a transform belong to it
        return _makers[name](shape).to(like.device, like.dtype)
    return _made(name, tuple(shape), like.dtype, like.device)


@cache
def _made(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd saves no inference tensors
        return _makers[name](shape).to(device, dtype)


def _real(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    # A compiled graph may overwrite an operator's result.
    return _made(name, tuple(shape), like.dtype, like.device).clone()


def _fake(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:  # noqa: ARG001
    return like.new_empty(shape)


_library = torch.library.Library("svdistill", "FRAGMENT")

_library.define("constant(Tensor like, str name, SymInt[] shape) -> Tensor")

_library.impl("constant", _real, "CompositeExplicitAutograd")

torch.library.register_fake("svdistill::constant", _fake, lib=_library)
