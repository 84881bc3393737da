"""The clipped sum of two gradients for little more than the price of one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from svdistill.errors import require_choice, require_count
from svdistill.multitask.averaging import average_gradients
from svdistill.multitask.backward import (
    GradientNorms,
    multitask_backward,
    require_scalars,
    require_trainable,
)


class AmortisedBackward:
    """Backward passes of which only every n-th takes both gradients.

    That step measures one scale over all parameters that the transfer reaches::

        c = min(1, sigmoid(progress) |g| / |h|),   g + c h

    with g the task's gradient and h the transfer's. The steps between carry it, and take the one
    gradient of ``task + c transfer``. A new epoch, which moves the sigmoid, is measured at once: so
    nothing but the epoch needs to be known where training is resumed between epochs. With n = 1
    every step is `multitask_backward` with ``clip="global"``.

    Args:
        interval: n, the steps from one measurement to the next.
        clip: `"global"`, or `"none"` where c is 1 and both gradients are taken for their norms.

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

    Differs from the seed, which compares both gradients in every step and per parameter tensor.
    """

    def __init__(self, interval: int = 10, clip: str = "global") -> None:
        require_count("clip_interval", interval)
        require_choice("clip", clip, ("global", "none"))
        self.interval = interval
        self.clip = clip
        self._epoch: int | None = None
        self._since = 0
        self._scale = torch.ones(())
        self._norms: GradientNorms | None = None

    def __call__(
        self,
        task_loss: Tensor,
        transfer_loss: Tensor,
        parameters: Iterable[nn.Parameter],
        *,
        progress: float = 0.0,
        weight_decay: float = 0.0,
    ) -> GradientNorms:
        """Add the clipped sum of both gradients to every parameter's `.grad`.

        Args:
            task_loss: scalar with a graph.
            transfer_loss: scalar with a graph.
            parameters: those to train.
            progress: the epoch, from 0.
            weight_decay: see `multitask_backward`.

        Returns:
            The norms that were last measured; of this step only where it took both gradients.
        """
        epoch = math.floor(progress)
        if self._norms is None or epoch != self._epoch or self._since >= self.interval:
            self._norms = multitask_backward(
                task_loss,
                transfer_loss,
                parameters,
                clip=self.clip,
                progress=progress,
                weight_decay=weight_decay,
            )
            reached = self._norms.transfer > 0
            self._scale = self._norms.clipped / torch.where(reached, self._norms.transfer, 1.0)
            self._epoch, self._since = epoch, 1
            return self._norms
        self._since += 1
        require_scalars(task_loss, transfer_loss)
        _add_gradient(task_loss + self._scale * transfer_loss, require_trainable(parameters))
        return self._norms


def _add_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """One backward pass; what `.grad` held before is neither averaged nor lost."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(loss, inputs=parameters)
    gradients = [parameter.grad for parameter in parameters]
    average_gradients(gradients)
    for parameter, old, new in zip(parameters, before, gradients, strict=True):
        parameter.grad = new if old is None else old if new is None else old + new
