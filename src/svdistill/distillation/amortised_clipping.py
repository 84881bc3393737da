"""The clipped sum of two gradients at little more than the cost of one."""

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
    """Backward passes of which only every n-th takes both gradients.

    That step measures one scale over all parameters that the transfer reaches::

        c = min(1, sigmoid(progress) |g| / |h|),   g + c h

    with g the task's gradient and h the transfer's. The steps between use the same c, and take the
    one gradient of ``task + c transfer``. The first step of an epoch, which changes the sigmoid,
    measures. With n = 1 every step is `multitask_backward`.

    Args:
        interval: n, the steps from one measurement to the next.
        clip: `"global"`, or `"none"` where c is 1 and both gradients are taken for their norms.
            With n = 1 any clip of `multitask_backward`.

    Raises:
        ArgumentError: an interval below 1, or another clip.

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0]))
        >>> backward = AmortisedBackward(interval=2)
        >>> for _ in range(2):
        ...     norms = backward(weight.sum(), 10 * weight.sum(), [weight])
        ...     weight.grad, norms.clipped
        ...     weight.grad = None
        (tensor([1.5000]), tensor(0.5000))
        (tensor([1.5000]), tensor(0.5000))

    Between two measurements c is not bounded by the current batch: on the digits in batches of 8,
    the clipped transfer gradient of a step reached 21 times the task's. `interval=1` keeps the
    bound in every step.

    Differs from the paper, which compares both gradients in every step and per parameter tensor.
    """

    def __init__(self, interval: int = 10, clip: str = "global") -> None:
        require_count("clip_interval", interval)
        require_choice("clip", clip, CLIPS if interval == 1 else ("global", "none"))
        self.interval = interval
        self.clip = clip
        self._epoch: int | None = None
        self._since = 0
        # The norms, then the scale. Written in place: recorded steps read this memory.
        self._measured: Tensor | None = None

    def plan(self, progress: float) -> bool:
        """Whether the next step takes both gradients; each call counts as one step.

        It reads no tensor. A recorded step is chosen by the answer, and called with it.

        Args:
            progress: the epoch, from 0.
        """
        epoch = math.floor(progress)
        measure = self._measured is None or epoch != self._epoch or self._since >= self.interval
        self._epoch = epoch
        self._since = 1 if measure else self._since + 1
        return measure

    def measure_again(self) -> None:
        """Take both gradients in the next step, since the optimizer skipped the last one.

        A scaler of fp16 skips a step whose gradients overflowed; the scale measured from them is
        of no use.
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
            parameters: those to train.
            progress: the epoch, from 0.
            weight_decay: see `multitask_backward`.
            measure: the answer of `plan` for this step; None asks it.
            held: gradients of a batch in parts, which are one step together.

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
        """The factor c of the steps until the next measurement; 0 if a gradient overflowed."""
        if self.clip == "none":
            return torch.ones_like(norms.transfer)
        scale = norms.clipped / torch.where(norms.transfer > 0, norms.transfer, 1.0)
        return torch.where(scale.isfinite(), scale, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the counter, the norms and the scale."""
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
    """The backward pass of a Distiller's clip; only two clips do not measure in every step."""
    require_choice("clip", clip, (*CLIPS, "amortised"))
    require_count("clip_interval", interval)
    if clip not in ("amortised", "none"):
        return AmortisedBackward(1, clip)
    return AmortisedBackward(interval, "global" if clip == "amortised" else "none")


def _add_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Add the gradients of one backward pass to `.grad`; only these are averaged."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(loss, inputs=parameters)
    gradients = [parameter.grad for parameter in parameters]
    average_gradients(gradients)
    for parameter, old, new in zip(parameters, before, gradients, strict=True):
        parameter.grad = new if old is None else old if new is None else old + new
