"""Notices a transfer that teaches nothing: at once what must not go on, else after an epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svdistill.common import TrainingError, TransferWarning
from svdistill.losses import not_finite
from svdistill.taps import write_count


def require_finite_transfer(transfer_loss: Tensor, source: Callable[[], str] = str) -> None:
    """Raise `TrainingError` unless the transfer loss is finite; it says from what it comes."""
    if not math.isfinite(float(transfer_loss.detach())):
        raise not_finite("transfer_loss", transfer_loss, source())


def require_finite_clipped(norm: Tensor) -> None:
    """Raise `TrainingError` unless the transfer's gradient, after clipping, is finite."""
    if not math.isfinite(float(norm.detach())):
        raise TrainingError(
            "transfer gradient",
            expected="a finite norm over the student's parameters",
            got=float(norm.detach()),
            remedy="the losses' own gradients at the taps are finite: look for layers before the "
            "taps that divide by zero or overflow, or use another precision",
        )


class TransferWatch:
    """Warns after an epoch in which nothing was taught, or the adapters were left untrained."""

    def __init__(self) -> None:
        self.progress: float | Tensor | None = None
        self.zeros = ZeroWatch()
        self.untrained = UntrainedWatch()

    def see(
        self,
        transfer_loss: Tensor,
        gradient_norm: Tensor,
        progress: float | Tensor,
        student: nn.Module,
        adapters: nn.Module | None,
    ) -> None:
        """Look at a step whose gradients are there and have not been used yet."""
        # Whoever replays a recorded step says himself when an epoch ends.
        before = self.progress
        numbers = not isinstance(before, Tensor) and not isinstance(progress, Tensor)
        if numbers and before is not None and math.floor(before) != math.floor(progress):
            self.end_epoch(stacklevel=4)
        self.progress = progress
        self.zeros.see(transfer_loss, gradient_norm)
        if adapters is not None:
            self.untrained.see(student, adapters)

    def end_epoch(self, stacklevel: int) -> None:
        """Warn of what the epoch has shown; the stack level is that of the user's line."""
        if self.progress is None:
            return
        if self.zeros.found():
            warnings.warn(
                f"the transfer loss or its gradient was zero in every step of epoch "
                f"{math.floor(self.progress)}: "
                "the student learns nothing from its teacher. Is it a copy of the teacher, or does "
                "the loss pass no gradient?",
                TransferWarning,
                stacklevel=stacklevel,
            )
        if self.untrained.found():
            warnings.warn(
                "the student was trained and its adapters were not, though they had gradients: "
                "give the optimizer `distiller.trainable_parameters()`",
                TransferWarning,
                stacklevel=stacklevel,
            )
        if not isinstance(self.progress, Tensor):  # a recorded step's stays: it tells the epoch
            self.progress = None

    def state_dict(self) -> dict[str, Any]:
        """What the epoch has shown so far."""
        progress = None if self.progress is None else float(self.progress)
        counts = {"steps": int(self.zeros.steps), "taught": int(self.zeros.taught)}
        return {"progress": progress, **counts, "told": self.untrained.told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.progress = state["progress"]
        self.zeros.steps.fill_(state["steps"])
        self.zeros.taught.fill_(state["taught"])
        self.untrained.told = state["told"]


class ZeroWatch:
    """Notices an epoch in which the transfer loss, or its gradient, was zero in every step.

    It counts on the device, so that a recorded step counts in every replay, and nothing waits.
    """

    ROUNDING = 1e-12

    def __init__(self) -> None:
        self.steps = torch.zeros((), dtype=torch.int64)
        self.taught = torch.zeros((), dtype=torch.int64)

    def see(self, transfer_loss: Tensor, gradient_norm: Tensor) -> None:
        """Count one step."""
        if self.steps.device != transfer_loss.device:
            self.steps = self.steps.to(transfer_loss.device)
            self.taught = self.taught.to(transfer_loss.device)
        self.steps += 1
        # Not "> 0": NaN, as where fp16 overflows, is no zero.
        self.taught += (transfer_loss.detach() > self.ROUNDING) & (gradient_norm != 0)

    def found(self) -> bool:
        """Whether no step since the last call has taught, and there was one."""
        zero = int(self.steps) > 0 and int(self.taught) == 0
        self.steps.zero_()
        self.taught.zero_()
        return zero


class UntrainedWatch:
    """Notices an optimizer that was given the student's parameters and not its adapters'.

    It tells by how often each was written to, which torch counts on the host: nothing waits. Until
    the optimizer has made a first step there is nothing to tell, and after that it is told once.
    """

    def __init__(self) -> None:
        self.student: list[nn.Parameter] = []
        self.adapters: list[nn.Parameter] = []
        self.before = (0, 0)
        self.told = False

    def see(self, student: nn.Module, adapters: nn.Module) -> None:
        """Keep the counts before the first step; adapters without a gradient do not matter."""
        if self.told or self.adapters:
            return
        self.student = list(student.parameters())
        self.adapters = [weight for weight in adapters.parameters() if weight.grad is not None]
        self.before = self._writes()

    def found(self) -> bool:
        """Whether the student has been written to since, and no adapter."""
        if self.told or not self.adapters:
            return False
        student, adapters = (
            now > then for now, then in zip(self._writes(), self.before, strict=True)
        )
        self.told = student or adapters
        return student and not adapters

    def _writes(self) -> tuple[int, int]:
        return sum(map(write_count, self.student)), sum(map(write_count, self.adapters))
