"""Adds the task's gradient and the transfer gradient, clipped relative to the task's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch._functorch.config
from torch import Tensor, nn

from svdistill.common import ArgumentError, TrainingError, require_choice
from svdistill.distillation.accumulation import HeldGradients
from svdistill.parallel import is_grouped, size, sum_over


def average_gradients(*several: list[Tensor | None]) -> None:
    """Replace gradients by their mean over the processes of a group, in one flat reduction.

    Does nothing outside of torch.distributed. In all processes the same gradients must be None.
    """
    if not is_grouped():
        return
    present = [g for gradients in several for g in gradients if g is not None]
    flat = torch.cat([g.flatten().to(present[0].dtype) for g in present])
    means = iter(sum_over(flat).div_(size()).split([g.numel() for g in present]))
    for gradients in several:
        for place, g in enumerate(gradients):
            if g is not None:
                gradients[place] = next(means).view(g.shape).to(g.dtype)


CLIPS = ("norm", "poster", "global", "none")


class GradientNorms(NamedTuple):
    """Norms over all parameters at the last measurement, as scalar tensors on their device.

    With `clip="amortised"` and `"none"` only every n-th step measures norms, and the steps between
    return the last measured ones. With gradient accumulation, the last part of a batch returns
    norms, and the other parts return NaN.

    Attributes:
        task: norm of the task's gradient.
        transfer: norm of the transfer gradient before clipping.
        clipped: norm of the transfer gradient after clipping.
    """

    task: Tensor
    transfer: Tensor
    clipped: Tensor


def multitask_backward(
    task_loss: Tensor,
    transfer_loss: Tensor,
    parameters: Iterable[nn.Parameter],
    *,
    clip: str = "norm",
    progress: float | Tensor = 0.0,
    weight_decay: float | Tensor = 0.0,
    held: HeldGradients | None = None,
) -> GradientNorms:
    """Add the task's gradient and the clipped transfer gradient to every parameter's `.grad`.

    Per parameter tensor, `.grad` receives, with g the task's and h the transfer gradient::

        clip="norm":    g + h min(1, sigmoid(progress) |g| / |h|)
        clip="poster":  g + h sigmoid(|g| / |h| - progress)   where |h| < |g|,  g + h elsewhere
        clip="none":    g + h

    A parameter that only the transfer loss reaches, such as an adapter's, receives h. The clip
    `"global"` scales h of all parameters alike, from the norms over those that both losses reach::

        clip="global":  g + h min(1, sigmoid(progress) |g|_all / |h|_all)

    In a process group of torch.distributed both gradients are averaged over the processes before
    they are compared, so that `.grad` is the same in all of them.

    Args:
        task_loss: scalar with a graph.
        transfer_loss: scalar with a graph.
        parameters: the parameters to train; those that require no gradient are ignored.
        clip: `"norm"` (the paper's authors' code), `"poster"` (the paper's text), `"global"` or
            `"none"`.
        progress: the epoch, from 0; at 0 `"norm"` bounds |h| by half of |g|. In a step recorded as
            a CUDA graph, a scalar tensor on the losses' device.
        weight_decay: weight decay of an optimizer that adds ``weight_decay * parameter`` to the
            gradient: |g| then includes this term, as in the authors' code.
        held: with gradient accumulation, the gradient sums of the batch, which are clipped and
            added to `.grad` with the last part. None: the losses are those of a whole batch.

    Returns:
        `GradientNorms(task, transfer, clipped)` over all parameters.

    Raises:
        ArgumentError: a loss is not a scalar, no parameter requires a gradient, or `clip` is
            unknown.
        TrainingError: the transfer loss reaches no parameter.

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0]))
        >>> norms = multitask_backward(weight.sum(), 10 * weight.sum(), [weight])
        >>> weight.grad, float(norms.clipped)
        (tensor([1.5000]), 0.5)

    Source: Lee, Kim, Song, ECCV 2018, section 3.4 (`"poster"`), and their code (`"norm"`).
    """
    require_choice("clip", clip, CLIPS)
    require_scalars(task_loss, transfer_loss)
    trained = require_trainable(parameters)
    transfer = _gradients(transfer_loss, trained)
    if all(gradient is None for gradient in transfer):
        raise TrainingError(
            "transfer_loss",
            expected="a loss that reaches the parameters",
            got="one that depends on none of them",
            remedy="check that the taps lie in the student and carry a graph",
        )
    task = _gradients(task_loss, trained)
    if held is not None:
        task, transfer = held.add(task, transfer)
        if held.more:
            unknown = torch.full((), torch.nan, device=transfer_loss.device)
            return GradientNorms(unknown, unknown, unknown)
    average_gradients(task, transfer)

    if clip == "none":
        clipped = transfer
    else:
        scales = _scales(_decayed(task, trained, weight_decay), transfer, clip, progress)
        clipped = [
            h if h is None or scale is None else h * scale
            for h, scale in zip(transfer, scales, strict=True)
        ]
    _accumulate(trained, task, clipped)
    device = transfer_loss.device
    return GradientNorms(_total(task, device), _total(transfer, device), _total(clipped, device))


def _decayed(
    task: list[Tensor | None], trained: list[nn.Parameter], weight_decay: float | Tensor
) -> list[Tensor | None]:
    """The task's gradients plus the term of the weight decay."""
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return task
    return [
        None if g is None else g + weight_decay * parameter.detach()
        for parameter, g in zip(trained, task, strict=True)
    ]


def _scales(
    task: list[Tensor | None], transfer: list[Tensor | None], clip: str, progress: float | Tensor
) -> list[Tensor | None]:
    """The factor on each transfer gradient; None where it is added unclipped."""
    both = [
        place
        for place, (g, h) in enumerate(zip(task, transfer, strict=True))
        if g is not None and h is not None
    ]
    scales: list[Tensor | None] = [None] * len(task)
    if not both:
        return scales
    # All norms are computed as one vector: on a GPU one kernel instead of one per parameter.
    g_norms = _norms([task[place] for place in both])
    h_norms = _norms([transfer[place] for place in both])
    if clip == "global":
        scale = clip_scale(_norm(g_norms), _norm(h_norms), "norm", progress)
        return [scale] * len(task)
    for place, scale in zip(both, clip_scale(g_norms, h_norms, clip, progress), strict=True):
        scales[place] = scale
    return scales


def require_scalars(task_loss: Tensor, transfer_loss: Tensor) -> None:
    """Raise `ArgumentError` unless both losses are scalars."""
    for name, loss in (("task_loss", task_loss), ("transfer_loss", transfer_loss)):
        if loss.numel() != 1:
            raise ArgumentError(
                name,
                expected="a scalar",
                got=f"shape {tuple(loss.shape)}",
                remedy="reduce it first",
            )


def keep_saved_tensors() -> None:
    """Let graphs of torch.compile keep their saved tensors after a backward pass.

    Two losses go backward through the same graph. By default a compiled graph reuses the memory of
    its saved tensors in the first backward pass, and raises an error in the second.
    """
    if hasattr(torch._functorch.config, "donated_buffer"):
        torch._functorch.config.donated_buffer = False


def require_trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that require gradients; raise `ArgumentError` if there are none."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ArgumentError(
            "parameters",
            expected="at least one that requires a gradient",
            got="none",
            remedy="pass the student's parameters, as a list if they are iterated twice",
        )
    return trained


def clip_scale(
    task_norm: Tensor, transfer_norm: Tensor, clip: str, progress: float | Tensor
) -> Tensor:
    """The factor on a transfer gradient, from both norms; finite even if they are 0.

    The norms may also be vectors, with one entry per gradient; the result then is a vector.

    Example:
        >>> clip_scale(torch.tensor(1.0), torch.tensor(4.0), "norm", progress=0.0)
        tensor(0.1250)
    """
    # An infinite norm is treated as zero: its gradient is clipped away.
    positive = (transfer_norm > 0) & transfer_norm.isfinite()
    tau = task_norm / torch.where(positive, transfer_norm, 1.0)
    tau = tau.clamp(max=torch.finfo(tau.dtype).max)  # since infinity times a zero sigmoid is NaN
    if clip == "norm":
        # `new_full` creates the number on the device: a copy from the host would synchronise.
        epoch = progress if isinstance(progress, Tensor) else tau.new_full((), progress)
        focus = torch.sigmoid(epoch.to(tau.dtype))
        return torch.where(positive, (focus * tau).clamp(max=1.0), 0.0)
    return torch.where(transfer_norm < task_norm, torch.sigmoid(tau - progress), 1.0)


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """The gradients of a loss, None where it does not depend on a parameter; keeps the graph."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    try:
        return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise TrainingError(
            "student",
            expected="a graph that two losses can go backward through",
            got="one that torch.compile made with torch._functorch.config.donated_buffer on",
            remedy="set it to False, or make the Distiller, before the first call of the compiled "
            "module; torch.compiler.reset() forgets the graphs made so far",
        ) from error


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _norms(gradients: Sequence[Tensor | None]) -> Tensor:
    """The norms of the gradients that are not None, as a vector."""
    present = [gradient for gradient in gradients if gradient is not None]
    dtype = torch.promote_types(present[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(present, dtype=dtype))


def _total(gradients: list[Tensor | None], device: torch.device) -> Tensor:
    if all(gradient is None for gradient in gradients):
        return torch.zeros((), device=device)
    return _norm(_norms(gradients))


def _accumulate(
    parameters: list[nn.Parameter], task: list[Tensor | None], clipped: list[Tensor | None]
) -> None:
    """Add the task's and the clipped transfer gradients to `.grad`."""
    pairs = list(zip(task, clipped, strict=True))
    both = [(g, h) for g, h in pairs if g is not None and h is not None]
    # `_foreach_add` takes one kernel for all parameters on a GPU.
    sums = iter(torch._foreach_add(*map(list, zip(*both, strict=True))) if both else ())
    for parameter, (g, h) in zip(parameters, pairs, strict=True):
        if g is not None and h is not None:
            total = next(sums)
        elif (alone := h if g is None else g) is not None:
            # A copy, since autograd's tensor may be expanded or shared by several parameters.
            total = alone.clone()
        else:
            continue
        parameter.grad = total.detach() if parameter.grad is None else parameter.grad + total
