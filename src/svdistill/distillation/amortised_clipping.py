"""The clipped sum of two losses' gradients at little more than the cost of one gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svdistill.common import require_choice, require_count
from svdistill.distillation.accumulation import HeldGradients
from svdistill.distillation.gradient_clipping import (
    CLIPS,
    GradientNorms,
    average_gradients,
    multitask_backward,
    require_scalars,
    require_trainable,
)


class AmortisedBackward:
    """Clips the transfer gradient by a scale that is measured only in every n-th step.

    A measuring step computes the gradients g of the task loss and h of the transfer loss, and one
    scale c from their norms over all parameters that both losses reach::

        c = min(1, sigmoid(progress) |g| / |h|),   g + c h

    The steps between two measurements use the same c, and compute the gradient of
    ``task + c transfer`` alone. The first step of an epoch measures, since the sigmoid changes.
    With n = 1 every step is `multitask_backward`.

    Args:
        interval: n, the number of steps from one measurement to the next.
        clip: `"global"`; or `"none"`, where c is 1 and measurements only yield the norms. With
            n = 1 any clip of `multitask_backward`.

    Raises:
        ArgumentError: `interval` is below 1, or `clip` is not one of these.

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0]))
        >>> backward = AmortisedBackward(interval=2)
        >>> for _ in range(2):
        ...     norms = backward(weight.sum(), 10 * weight.sum(), [weight])
        ...     weight.grad, norms.clipped
        ...     weight.grad = None
        (tensor([1.5000]), tensor(0.5000))
        (tensor([1.5000]), tensor(0.5000))

    Between two measurements the bound does not hold for the current batch: on the digits in batches
    of 8, the norm of a step's clipped transfer gradient reached 21 times that of the task's.
    `interval=1` keeps the bound in every step.

    Differs from the paper, which compares both gradients in every step and per parameter tensor.
    """

    def __init__(self, interval: int = 10, clip: str = "global") -> None:
        require_count("clip_interval", interval)
        require_choice("clip", clip, CLIPS if interval == 1 else ("global", "none"))
        self.interval = interval
        self.clip = clip
        self._epoch: int | None = None
        self._since = 0
        # Three norms, then the scale c. Written in place, since CUDA graphs read this memory.
        self._measured: Tensor | None = None

    def plan(self, progress: float) -> bool:
        """Whether the next step computes both gradients; each call counts as one step.

        It reads no tensor. A training loop with CUDA graphs calls it to choose which of two
        recorded steps to replay, and passes the result as `measure`.

        Args:
            progress: the epoch, from 0.
        """
        epoch = math.floor(progress)
        measure = self._measured is None or epoch != self._epoch or self._since >= self.interval
        self._epoch = epoch
        self._since = 1 if measure else self._since + 1
        return measure

    def measure_again(self) -> None:
        """Compute both gradients in the next step, since the last step was skipped.

        The gradient scaler of fp16 skips a step whose gradients overflowed; a scale measured from
        such gradients is of no use.
        """
        self._since = self.interval

    def __call__(
        self,
        task_loss: Tensor,
        transfer_loss: Tensor,
        parameters: Iterable[nn.Parameter],
        *,
        progress: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        measure: bool | None = None,
        held: HeldGradients | None = None,
    ) -> GradientNorms:
        """Add the clipped sum of both gradients to every parameter's `.grad`.

        Args:
            task_loss: scalar with a graph.
            transfer_loss: scalar with a graph.
            parameters: the parameters to train.
            progress: the epoch, from 0.
            weight_decay: see `multitask_backward`.
            measure: the result of `plan` for this step; None calls `plan`.
            held: with gradient accumulation, the gradient sums of the batch, whose parts count as
                one step.

        Returns:
            The norms of the last measurement.
        """
        if held is not None and held.measure is not None:
            measure = held.measure
        if measure is None:
            measure = self.plan(float(progress))
        if held is not None:
            held.measure = measure
        if measure or self._measured is None:
            norms = multitask_backward(
                task_loss,
                transfer_loss,
                parameters,
                clip=self.clip,
                progress=progress,
                weight_decay=weight_decay,
                held=held,
            )
            if self.interval == 1 or (held is not None and held.more):
                return norms
            self._keep(torch.stack([*norms, self._scale(norms)]))
        else:
            require_scalars(task_loss, transfer_loss)
            loss = task_loss + self._measured[3] * transfer_loss
            _add_gradient(loss, require_trainable(parameters))
        assert self._measured is not None
        return GradientNorms(*self._measured[:3].clone())

    def _scale(self, norms: GradientNorms) -> Tensor:
        """The scale c for the steps until the next measurement; 0 if a gradient overflowed."""
        if self.clip == "none":
            return torch.ones_like(norms.transfer)
        scale = norms.clipped / torch.where(norms.transfer > 0, norms.transfer, 1.0)
        return torch.where(scale.isfinite(), scale, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The state: epoch, steps since the last measurement, measured norms and scale."""
        measured = None if self._measured is None else self._measured.clone()
        return {"epoch": self._epoch, "since": self._since, "measured": measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._epoch, self._since = state["epoch"], state["since"]
        if state["measured"] is not None:
            self._keep(state["measured"].clone())

    def _keep(self, measured: Tensor) -> None:
        if self._measured is None or self._measured.device != measured.device:
            self._measured = measured
        else:
            self._measured.copy_(measured)


def backward_of_clip(clip: str, interval: int) -> AmortisedBackward:
    """The backward pass for a Distiller's `clip`.

    Only `"amortised"` and `"none"` use the interval: the other clips measure in every step.
    """
    require_choice("clip", clip, (*CLIPS, "amortised"))
    require_count("clip_interval", interval)
    if clip not in ("amortised", "none"):
        return AmortisedBackward(1, clip)
    return AmortisedBackward(interval, "global" if clip == "amortised" else "none")


def _add_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Add a loss's gradients, averaged over the processes, to `.grad`.

    What `.grad` holds already is not averaged.
    """
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(loss, inputs=parameters)
    gradients = [parameter.grad for parameter in parameters]
    average_gradients(gradients)
    for parameter, old, new in zip(parameters, before, gradients, strict=True):
        parameter.grad = new if old is None else old if new is None else old + new
