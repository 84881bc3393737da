"""Checks of the arguments and of the transfer: not finite, zero, or not reaching the adapters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, TrainingError, TransferWarning
from svdistill.distillation.gradient_clipping import GradientNorms
from svdistill.linalg import is_accelerator, may_branch
from svdistill.losses import Knowledge, not_finite, source
from svdistill.parallel import is_grouped, sum_over
from svdistill.taps import PairedTaps, TapPairs, require_distinct_networks, write_count

Teacher = TypeVar("Teacher")


def require_module(argument: str, network: object) -> None:
    """Raise `ArgumentError` unless this is an `nn.Module`."""
    if not isinstance(network, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module",
            got=type(network).__name__,
            remedy="of an exported program give .module(); wrap a function in an nn.Module",
        )


def require_networks(teacher: nn.Module | None, student: nn.Module) -> None:
    """Raise `ArgumentError` unless these are two networks, or a student alone."""
    require_module("student", student)
    if teacher is not None:
        require_module("teacher", teacher)
    require_distinct_networks(teacher, student)


def tap_paths(
    taps: PairedTaps | TapPairs | Sequence[str], teacher: nn.Module | None, student: nn.Module
) -> TapPairs:
    """The module paths of both networks; of a compiled one, the paths inside of it."""
    pairs = taps.pairs if isinstance(taps, PairedTaps) else taps
    of_teacher, of_student = pairs if isinstance(pairs, TapPairs) else (pairs, pairs)
    return TapPairs(_within(teacher, of_teacher), _within(student, of_student))


def _within(model: nn.Module | None, paths: Sequence[str]) -> Any:
    """The paths in what `torch.compile` returned; a string stays, for `FeatureTaps` to refuse."""
    if isinstance(paths, str):
        return paths
    compiled = isinstance(getattr(model, "_orig_mod", None), nn.Module)
    start = "_orig_mod." if compiled else ""
    return tuple(path if path.startswith(start) else start + path for path in paths)


def require_teacher(teacher: Teacher | None) -> Teacher:
    """The teacher; raise `ArgumentError` if there is none."""
    if teacher is None:
        raise ArgumentError(
            "knowledge",
            expected="the teacher's knowledge of the images, since there is no teacher",
            got="nothing",
            remedy="read it from a KnowledgeStore, or give the Distiller a teacher",
        )
    return teacher


def require_no_knowledge(inputs: tuple[Any, ...]) -> None:
    """Raise `ArgumentError` if knowledge was passed by position, among a network's inputs."""
    if any(isinstance(given, Knowledge) for given in inputs):
        raise ArgumentError(
            "knowledge",
            expected="a keyword argument: the others are passed on to the networks",
            got="knowledge by position",
            remedy="write distiller(images, knowledge=knowledge)",
        )


class LossInputs(NamedTuple):
    """A transfer loss and its inputs, without its graph, until its backward pass."""

    transfer_loss: Tensor
    features: Sequence[Tensor]
    logits: Tensor | None
    knowledge: Knowledge

    def source(self, taps: Sequence[str]) -> str:
        """The origin of a loss that is not finite, as text; empty if the loss is finite."""
        if bool(self.transfer_loss.isfinite()):
            return ""
        return source(self.features, self.logits, self.knowledge, taps)


def require_finite_transfer(
    transfer_loss: Tensor, inputs: LossInputs | None = None, taps: Sequence[str] = ()
) -> None:
    """Raise `TrainingError` if a transfer loss on the CPU is not finite; name its source.

    On an accelerator `TransferCounts` finds it later.
    """
    if may_branch(transfer_loss.device) and not math.isfinite(float(transfer_loss.detach())):
        raise not_finite("transfer_loss", transfer_loss, inputs.source(taps) if inputs else "")


def require_finite_clipped(norm: Tensor) -> None:
    """Raise `TrainingError` if the norm of the clipped transfer gradient, on a CPU, is not finite.

    On an accelerator `TransferCounts` finds it later.
    """
    if may_branch(norm.device) and not math.isfinite(float(norm.detach())):
        raise _gradient_not_finite(f"{float(norm.detach())}")


def _gradient_not_finite(got: str) -> TrainingError:
    return TrainingError(
        "transfer gradient",
        expected="a finite norm over the student's parameters",
        got=got,
        remedy="the losses' own gradients at the taps are finite: look for layers before the "
        "taps that divide by zero or overflow, or use another precision",
    )


class TransferWatch:
    """Warns after an epoch in which the transfer had no effect or the adapters were not trained."""

    def __init__(self) -> None:
        self.progress: float | Tensor | None = None
        self.counts = TransferCounts()
        self.untrained = UntrainedWatch()

    def see(
        self,
        transfer_loss: Tensor,
        norms: GradientNorms,
        progress: float | Tensor,
        *,
        scaled: bool = False,
    ) -> None:
        """Look at a step, `scaled` if fp16's scaler finds gradients that are not finite.

        Raises:
            TrainingError: a loss or a gradient of an earlier step on an accelerator is not finite.
        """
        # A recorded step has its progress as a tensor; its caller calls `end_epoch`.
        before = self.progress
        numbers = not isinstance(before, Tensor) and not isinstance(progress, Tensor)
        if numbers and before is not None and math.floor(before) != math.floor(progress):
            self.end_epoch(stacklevel=4)
        self.progress = progress
        self.counts.see(transfer_loss, norms, scaled=scaled)

    def end_epoch(self, stacklevel: int) -> None:
        """Issue the epoch's warnings, at this stack level.

        Raises:
            TrainingError: a loss or a gradient on an accelerator was not finite.
        """
        if self.progress is None:
            return
        if self.counts.end_epoch():
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
                "the student was trained and its loss or adapters were not, though they had "
                "gradients: give the optimizer `distiller.trainable_parameters()`",
                TransferWarning,
                stacklevel=stacklevel,
            )
        if not isinstance(self.progress, Tensor):  # a recorded step's stays: it tells the epoch
            self.progress = None

    def state_dict(self) -> dict[str, Any]:
        """The counts of the epoch so far; reading them synchronises with the device."""
        progress = None if self.progress is None else float(self.progress)
        steps, taught, *_ = self.counts.counts.cpu().tolist()
        return {
            "progress": progress,
            "steps": steps,
            "taught": taught,
            "told": self.untrained.told,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.progress = state["progress"]
        self.counts.restore(state["steps"], state["taught"])
        self.untrained.told = state["told"]


class TransferCounts:
    """Counts an epoch's steps with a transfer gradient, and its steps that were not finite.

    The counts lie on the device of the losses, so that a recorded step counts in each replay. No
    step synchronises: on an accelerator, a copy of the counts is on its way to the host while the
    next steps are enqueued, and the first step that sees a broken one there raises.
    """

    ROUNDING = 1e-12
    PINNED = ("cuda", "xpu")  # devices with asynchronous copies to the host

    def __init__(self) -> None:
        # Steps; steps that taught; losses, and clipped gradients, that were not finite.
        self.counts = torch.zeros(4, dtype=torch.int64, device="cpu")
        self._copy: Tensor | None = None

    def see(self, transfer_loss: Tensor, norms: GradientNorms, *, scaled: bool = False) -> None:
        """Count one step; raise `TrainingError` if an earlier one is known to be broken."""
        device = transfer_loss.device
        if self.counts.device != device:
            self.counts = self.counts.to(device)
            self._copy = None
        if self._copy is not None:
            self._require_finite(self._copy)
        loss = transfer_loss.detach().reshape(())
        # Not "> 0": NaN, as where fp16 overflows, is no zero. A log-likelihood may be negative.
        taught = (loss.abs() > self.ROUNDING) & (norms.transfer != 0)
        clipped = torch.zeros_like(loss) if scaled else norms.clipped
        broken = ~loss.isfinite(), ~clipped.isfinite()
        self.counts += torch.stack([torch.ones_like(taught), taught, *broken])
        self._send()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None}  # a copy of it would not be pinned

    def end_epoch(self) -> bool:
        """Whether there were steps since the last call, none of which had a transfer gradient.

        Raises:
            TrainingError: a loss or a gradient on an accelerator was not finite.
        """
        if is_accelerator(self.counts.device):
            self._require_finite(sum_over(self.counts.clone()))
        steps, taught, *_ = self.counts.cpu().tolist()
        self.counts.zero_()
        return steps > 0 and taught == 0

    def restore(self, steps: int, taught: int) -> None:
        """Restore earlier counts."""
        for place, count in enumerate((steps, taught, 0, 0)):
            self.counts[place] = count

    def _send(self) -> None:
        """Start an asynchronous copy of the counts to pinned memory."""
        device = self.counts.device
        # In a group all processes must raise in the same step: after the epoch. A recorded copy
        # would be of no use, since no Python runs in a replay.
        if device.type not in self.PINNED or is_grouped() or _is_recording(device):
            return
        if self._copy is None:
            self._copy = torch.zeros(4, dtype=torch.int64, device="cpu", pin_memory=True)
        self._copy.copy_(self.counts, non_blocking=True)

    def _require_finite(self, counts: Tensor) -> None:
        steps, _, losses, gradients = counts.cpu().tolist()
        if losses or gradients:
            self.counts.zero_()
            self._copy = None  # copies that are on their way may still write to the old one
        if losses:
            raise TrainingError(
                "transfer_loss",
                expected="a finite number",
                got=f"NaN or infinity in {losses} of {steps} steps",
                remedy="a step on a CPU names the tap and the images: look for NaN or inf there; "
                "lower the learning rate if training diverged",
            )
        if gradients:
            raise _gradient_not_finite(f"NaN or infinity in {gradients} of {steps} steps")


def _is_recording(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class UntrainedWatch:
    """Detects an optimizer that has the student's parameters and not the adapters'.

    It compares how often each parameter was written to, which torch counts on the host. Before the
    optimizer's first step there is nothing to compare; afterwards it reports once.
    """

    def __init__(self) -> None:
        self.student: list[nn.Parameter] = []
        self.adapters: list[nn.Parameter] = []
        self.before = (0, 0)
        self.told = False

    def see(self, student: nn.Module, adapters: nn.Module) -> None:
        """Record the write counts before the first step, of adapters that have gradients."""
        if self.told or self.adapters:
            return
        self.student = list(student.parameters())
        self.adapters = [weight for weight in adapters.parameters() if weight.grad is not None]
        self.before = self._writes()

    def found(self) -> bool:
        """Whether an optimizer has since written to the student, and to no adapter."""
        if self.told or not self.adapters:
            return False
        student, adapters = (
            now > then for now, then in zip(self._writes(), self.before, strict=True)
        )
        self.told = student or adapters
        return student and not adapters

    def _writes(self) -> tuple[int, int]:
        return sum(map(write_count, self.student)), sum(map(write_count, self.adapters))
