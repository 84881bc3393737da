"""Optimizers and learning rate schedules, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Build an optimizer.

    Args:
        name: `"sgd"`, with Nesterov momentum 0.9 as in the paper, or `"adamw"`.
        parameters: those to train.
        learning_rate: maximum of the schedule.
        weight_decay: coupled for `"sgd"`, decoupled for `"adamw"`.

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
    name: str, optimizer: Optimizer, learning_rate: float, total_steps: int
) -> LRScheduler:
    """Build a schedule that is advanced after every step.

    Args:
        name: `"paper"` (x0.1 at half of the steps, x0.01 at three quarters), `"one_cycle"` (up to
            the learning rate over 30 % of the steps, then down along a cosine) or `"constant"`.
        optimizer: its learning rate is set.
        learning_rate: its maximum.
        total_steps: steps of the whole stage.

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
    "Super-Convergence", 2018.
    """
    if name == "one_cycle":
        # The momentum is constant, as Nesterov's correction expects. One step more, since the
        # schedule is also advanced after the last step.
        return OneCycleLR(optimizer, learning_rate, total_steps + 1, cycle_momentum=False)
    if name == "paper":
        milestones = [math.ceil(total_steps / 2), math.ceil(total_steps * 3 / 4)]
        return MultiStepLR(optimizer, milestones, gamma=0.1)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
