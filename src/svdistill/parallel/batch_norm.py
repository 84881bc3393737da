"""Batch norm over the images of all processes, for any module that calls torch's batch norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from svdistill.parallel.group import BatchPart, gather, sum_over


@contextmanager
def batch_norm_over(part: BatchPart | None) -> Iterator[None]:
    """Within the block, let batch norms in training mode use the statistics of all processes.

    It intercepts the calls of ``F.batch_norm``; modules and the names of their weights do not
    change. All processes must run the same batch norms. `part` is this process's part of the batch.
    With None or a single process nothing changes: each part has statistics of its own.
    """
    if part is None or part.processes == 1:
        yield
    else:
        with _GlobalBatchNorm(part):
            yield


def global_batch_norm(
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    *,
    stand_in: bool = False,
) -> Tensor:
    """``F.batch_norm(..., training=True)`` with the statistics of all processes' features.

    Each process contributes, per channel, the number n of its values, their mean m and the sum M of
    their squared deviations. The sums below run over the processes::

        N = sum n,   mean = sum n m / N,   N var = sum M + sum n (m - mean)^2

    This avoids cancellation. All processes compute the sums in the same order, so that the results
    are bit for bit equal. With `stand_in` the features [B, C, ...] of this process are normalised,
    but left out of the statistics.

    Raises:
        ValueError: on a CPU, there is only one value per channel, as in torch.
    """
    normalised: Tensor
    normalised, mean, var, count = _Normalise.apply(features, weight, bias, eps, stand_in)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = var * (count / (count - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return normalised


# The names of the parameters of both functions in their order, and the parameters' defaults.
_STATISTICS: Final = ("running_mean", "running_var")
_AFFINE: Final = ("weight", "bias")
_OPTIONS: Final = ("training", "momentum", "eps")
_PARAMETERS: Final[dict[Any, tuple[str, ...]]] = {
    F.batch_norm: ("input", *_STATISTICS, *_AFFINE, *_OPTIONS),
    torch.batch_norm: ("input", *_AFFINE, *_STATISTICS, *_OPTIONS),
}
_DEFAULTS: Final = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}


class _GlobalBatchNorm(TorchFunctionMode):
    """Replaces calls of batch norm in training mode by `global_batch_norm`."""

    def __init__(self, part: BatchPart) -> None:
        super().__init__()
        self.part = part

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        names = _PARAMETERS.get(func)
        call = {**_DEFAULTS, **dict(zip(names, args, strict=False)), **kwargs} if names else {}
        if not call.get("training"):
            return func(*args, **kwargs)
        order = (name for name in _PARAMETERS[F.batch_norm] if name != "training")
        return global_batch_norm(*(call[name] for name in order), stand_in=self.part.stand_in)


class _Normalise(torch.autograd.Function):
    """Normalises features; gradients flow through the statistics to the features of all processes.

    With ``x`` the normalised features, ``g`` the gradient of the output, ``r = 1/sqrt(var + eps)``
    and means over the values of all processes, the gradient of the features is::

        features_bar = weight r (g - mean(g) - x mean(g x))

    Each process computes the gradients of weight and bias from its own features alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        stand_in: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _statistics(features, stand_in)
        # torch's batch norm with given statistics takes one pass, in the features' dtype.
        normalised = F.batch_norm(features, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(features, weight, mean, var, count)
        ctx.eps, ctx.stand_in, ctx.has_bias = eps, stand_in, bias is not None
        ctx.mark_non_differentiable(mean, var, count)
        return normalised, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        features, weight, mean, var, count = ctx.saved_tensors
        r = (var + ctx.eps).rsqrt()
        axes, shape = _axes(features), _shape(features)
        x = (features.to(r.dtype) - mean.view(shape)) * r.view(shape)
        g = g.to(r.dtype)
        bias_bar, weight_bar = g.sum(axes), (g * x).sum(axes)
        sums = torch.cat([bias_bar, weight_bar])
        sums = sum_over(torch.zeros_like(sums) if ctx.stand_in else sums)
        mean_g, mean_gx = (sums / count).view(2, *shape).unbind()
        scale = r if weight is None else r * weight
        features_bar = scale.view(shape) * (g - mean_g - x * mean_gx)
        return (
            torch.zeros_like(features) if ctx.stand_in else features_bar.to(features.dtype),
            None if weight is None else weight_bar,
            bias_bar if ctx.has_bias else None,
            None,
            None,
        )


def _statistics(features: Tensor, stand_in: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance [C] over all processes' features, and the number of values per channel [].

    Features in half precision are summed in float32.
    """
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    var, mean = torch.var_mean(values, _axes(values), correction=0)
    here = 0 if stand_in else features.numel() // features.shape[1]
    gathered = gather(torch.cat([mean, var, mean.new_full((1,), here)]))
    means, variances, counts = torch.stack(gathered).split([len(mean), len(mean), 1], dim=1)
    count = counts.sum()
    if features.device.type == "cpu" and count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got {int(count)}")
    mean = (counts * means).sum(0) / count
    deviations = counts * variances + counts * (means - mean).square()
    return mean, deviations.sum(0) / count, count


def _axes(features: Tensor) -> list[int]:
    return [axis for axis in range(features.ndim) if axis != 1]


def _shape(features: Tensor) -> list[int]:
    """The shape with which a tensor [C] broadcasts over the features."""
    return [-1 if axis == 1 else 1 for axis in range(features.ndim)]
