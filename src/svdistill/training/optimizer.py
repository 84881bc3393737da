"""Build optimizers and learning rate schedules by name, and average weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Build the optimizer `"sgd"` (Nesterov momentum 0.9, as in the paper) or `"adamw"`.

    Weight decay is coupled to the gradient for `"sgd"`, decoupled for `"adamw"`.

    Example:
        >>> build_optimizer("sgd", [nn.Parameter(torch.zeros(2))], 0.1, 0.0).defaults["nesterov"]
        True
    """
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)


def build_schedule(
    name: str,
    optimizer: Optimizer,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
) -> LRScheduler:
    """Build a learning rate schedule, to be advanced after every step.

    Args:
        name: `"paper"` (x0.1 from half of the steps on, x0.01 from three quarters on),
            `"one_cycle"` (rises to the maximum over 30 % of the steps, then falls along a cosine),
            `"cosine"` (rises linearly to the maximum during the warm-up, then falls to 0 along a
            cosine) or `"constant"`.
        optimizer: the optimizer whose learning rate the schedule sets.
        learning_rate: the maximum learning rate.
        total_steps: number of steps of the whole stage.
        warmup_steps: number of warm-up steps of `"cosine"`; other schedules ignore it.

    Example:
        >>> sgd = build_optimizer("sgd", [nn.Parameter(torch.zeros(2))], 1.0, 0.0)
        >>> schedule = build_schedule("paper", sgd, 1.0, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates += schedule.get_last_lr()
        ...     sgd.step()
        ...     schedule.step()
        >>> [round(rate, 3) for rate in rates]
        [1.0, 1.0, 0.1, 0.01]

    Source: milestones of the paper's protocol (100 and 150 of 200 epochs); Smith, Topin,
    "Super-Convergence", 2018; Loshchilov, Hutter, "SGDR", ICLR 2017.
    """
    if name == "cosine":

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            part = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
            return (1 + math.cos(math.pi * min(part, 1.0))) / 2

        return LambdaLR(optimizer, factor)
    if name == "one_cycle":
        # The momentum stays constant, as Nesterov momentum expects. The schedule is advanced after
        # the last step too, so it needs one step more.
        return OneCycleLR(optimizer, learning_rate, total_steps + 1, cycle_momentum=False)
    if name == "paper":
        milestones = [math.ceil(total_steps / 2), math.ceil(total_steps * 3 / 4)]
        return MultiStepLR(optimizer, milestones, gamma=0.1)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Copy a network; the copy's weights and buffers are moving averages of the network's.

    In update n the average keeps the share ``min(decay, (n + 1) / (n + 10))`` of its value, so that
    after a short training the first steps weigh little. Integer buffers are copied.

    Args:
        network: the network to average; see `AveragedModel.update_parameters`.
        decay: largest share that an update keeps, at least 0 and below 1.

    Source: the warm-up is that of TensorFlow's `ExponentialMovingAverage`.
    """

    def update(averages: Tensors, weights: Tensors, _count: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, weights)
            return
        number = int(average.n_averaged)  # not `_count`, which may be on a GPU; this is on the CPU
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (number + 1) / (number + 10)))

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return average.requires_grad_(False)
