"""Checks of the Distiller's arguments, and of transfer losses: not finite, zero, no effect."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, TrainingError, TransferWarning
from svdistill.distillation.gradient_clipping import GradientNorms, require_scalars
from svdistill.linalg import is_accelerator, may_branch
from svdistill.losses import Knowledge, TransferLoss, not_finite, source
from svdistill.parallel import is_grouped, sum_over
from svdistill.taps import PairedTaps, TapPairs, require_distinct_networks, write_count

Teacher = TypeVar("Teacher")


def require_module(argument: str, network: object) -> None:
    """Raise `ArgumentError` unless `network` is an `nn.Module`."""
    if not isinstance(network, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module",
            got=type(network).__name__,
            remedy="of an exported program give .module(); wrap a function in an nn.Module",
        )


def require_loss(argument: str, loss: object) -> None:
    """Raise `ArgumentError` unless `loss` is a `TransferLoss`."""
    if not isinstance(loss, TransferLoss):
        raise ArgumentError(
            argument,
            expected="a TransferLoss",
            got=getattr(loss, "__name__", repr(loss)),
            remedy="give an object such as svdistill.PositionGramLoss()",
        )


def require_members(
    teacher: nn.Module | None, student: nn.Module, loss: object, unclipped: object
) -> None:
    """Raise `ArgumentError` unless both are distinct networks, or the teacher None, and losses."""
    require_module("student", student)
    if teacher is not None:
        require_module("teacher", teacher)
    require_distinct_networks(teacher, student)
    require_loss("loss", loss)
    if unclipped is not None:
        require_loss("unclipped", unclipped)


def extracted(loss: TransferLoss, features: Sequence[Tensor], logits: Tensor | None) -> Knowledge:
    """What a loss extracts from a teacher; raises `TrainingError` if it is no `Knowledge`."""
    knowledge: object = loss.extract(features, logits)
    if isinstance(knowledge, Knowledge):
        return knowledge
    raise TrainingError(
        f"{type(loss).__name__}.extract",
        expected="a Knowledge",
        got=type(knowledge).__name__,
        remedy="let it return an object of a dataclass derived from svdistill.Knowledge",
    )


def tap_paths(
    taps: PairedTaps | TapPairs | Sequence[str], teacher: nn.Module | None, student: nn.Module
) -> TapPairs:
    """The taps' module paths in both networks, adjusted for networks that `torch.compile` made."""
    pairs = taps.pairs if isinstance(taps, PairedTaps) else taps
    of_teacher, of_student = pairs if isinstance(pairs, TapPairs) else (pairs, pairs)
    return TapPairs(_within(teacher, of_teacher), _within(student, of_student))


def _within(model: nn.Module | None, paths: Sequence[str]) -> Any:
    """The paths, in a compiled network preceded by ``_orig_mod.``.

    A string instead of a sequence is returned unchanged: `FeatureTaps` raises an error for it.
    """
    if isinstance(paths, str):
        return paths
    compiled = isinstance(getattr(model, "_orig_mod", None), nn.Module)
    start = "_orig_mod." if compiled else ""
    return tuple(path if path.startswith(start) else start + path for path in paths)


def require_teacher(teacher: Teacher | None) -> Teacher:
    """Return the teacher; raise `ArgumentError` if it is None."""
    if teacher is None:
        raise ArgumentError(
            "knowledge",
            expected="the teacher's knowledge of the images, since there is no teacher",
            got="nothing",
            remedy="read it from a KnowledgeStore, or give the Distiller a teacher",
        )
    return teacher


def require_no_knowledge(inputs: tuple[Any, ...]) -> None:
    """Raise `ArgumentError` if knowledge was passed by position, like an input of the networks."""
    if any(isinstance(given, Knowledge) for given in inputs):
        raise ArgumentError(
            "knowledge",
            expected="a keyword argument: the others are passed on to the networks",
            got="knowledge by position",
            remedy="write distiller(images, knowledge=knowledge)",
        )


class LossInputs(NamedTuple):
    """A transfer loss and its inputs, detached, kept for error messages until the backward pass."""

    transfer_loss: Tensor
    features: Sequence[Tensor]
    logits: Tensor | None
    knowledge: Knowledge

    def source(self, taps: Sequence[str]) -> str:
        """A text that names what made the loss NaN or infinite; empty if the loss is finite."""
        if bool(self.transfer_loss.isfinite()):
            return ""
        return source(self.features, self.logits, self.knowledge, taps)


def require_usable(
    task_loss: Tensor, transfer_loss: Tensor, inputs: LossInputs | None, taps: Sequence[str]
) -> None:
    """Raise an error for a task loss without a graph, or a transfer loss that is not finite.

    A task loss of 0 needs no graph: the transfer then is all that is learned. Both are checked on
    the CPU only.
    """
    require_scalars(task_loss, transfer_loss)
    if not task_loss.requires_grad and may_branch(task_loss.device) and float(task_loss) != 0:
        raise ArgumentError(
            "task_loss",
            expected="a loss with a graph, or 0 to train on the transfer alone",
            got=f"the constant {float(task_loss):.4g}",
            remedy="compute it from the output's logits without detach, item or no_grad",
        )
    require_finite_transfer(transfer_loss, inputs, taps)


def require_finite_transfer(
    transfer_loss: Tensor, inputs: LossInputs | None = None, taps: Sequence[str] = ()
) -> None:
    """Raise `TrainingError` if a transfer loss on the CPU is not finite, and name the tap.

    On an accelerator `TransferCounts` raises the error in a later step.
    """
    if may_branch(transfer_loss.device) and not math.isfinite(float(transfer_loss.detach())):
        raise not_finite("transfer_loss", transfer_loss, inputs.source(taps) if inputs else "")


def require_finite_clipped(norm: Tensor) -> None:
    """Raise `TrainingError` if the norm of the clipped transfer gradient, on a CPU, is not finite.

    On an accelerator `TransferCounts` raises the error in a later step.
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
    """Warns after an epoch if the transfer loss had no effect or the adapters were not trained."""

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
        """Record a step; at the first step of a new epoch, end the previous epoch.

        Args:
            transfer_loss: the step's transfer loss.
            norms: the step's gradient norms.
            progress: the epoch, from 0.
            scaled: whether a gradient scaler (fp16) is in use, which itself skips steps whose
                gradients are not finite.

        Raises:
            TrainingError: a loss or a gradient of an earlier step on an accelerator is not finite.
        """
        # Steps recorded as CUDA graphs have a tensor as progress, and their caller ends the epochs.
        before = self.progress
        numbers = not isinstance(before, Tensor) and not isinstance(progress, Tensor)
        if numbers and before is not None and math.floor(before) != math.floor(progress):
            self.end_epoch(stacklevel=4)
        self.progress = progress
        self.counts.see(transfer_loss, norms, scaled=scaled)

    def end_epoch(self, stacklevel: int) -> None:
        """Issue the epoch's warnings; `stacklevel` is that of `warnings.warn`.

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
        # A recorded step's tensor is kept: replays update it, and do not call `see` again.
        if not isinstance(self.progress, Tensor):
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
    """Counts an epoch's steps with a transfer gradient, and those with NaN or infinity.

    The counts are kept on the device of the losses, so that each replay of a CUDA graph updates
    them. No step synchronises with the device: on an accelerator the counts are copied to the host
    asynchronously, and the first later step that finds NaN or infinity in the copy raises an error.
    """

    ROUNDING = 1e-12
    # A copy of the teacher differs from it by rounding, since the teacher's layers are fused. Up to
    # this share of the task's gradient a transfer gradient counts as none.
    NO_SHARE = 1e-6
    PINNED = ("cuda", "xpu")  # devices with asynchronous copies to the host

    def __init__(self) -> None:
        # The numbers of steps, of steps with a transfer gradient, of steps whose loss was not
        # finite, and of steps whose clipped gradient was not finite.
        self.counts = torch.zeros(4, dtype=torch.int64, device="cpu")
        self._copy: Tensor | None = None

    def see(self, transfer_loss: Tensor, norms: GradientNorms, *, scaled: bool = False) -> None:
        """Count one step; raise `TrainingError` if an earlier step is known not to be finite."""
        device = transfer_loss.device
        if self.counts.device != device:
            self.counts = self.counts.to(device)
            self._copy = None
        if self._copy is not None:
            self._require_finite(self._copy)
        loss = transfer_loss.detach().reshape(())
        # The gradient not by `>`: NaN, as after an overflow in fp16, must not count as zero. `abs`,
        # since a loss such as a log-likelihood may be negative.
        taught = (loss.abs() > self.ROUNDING) & ~(norms.transfer <= self.NO_SHARE * norms.task)
        clipped = torch.zeros_like(loss) if scaled else norms.clipped
        broken = ~loss.isfinite(), ~clipped.isfinite()
        self.counts += torch.stack([torch.ones_like(taught), taught, *broken])
        self._send()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None}  # copied or unpickled, it would not be pinned

    def end_epoch(self) -> bool:
        """Reset the counts; whether there were steps, none of which had a transfer gradient.

        Raises:
            TrainingError: a loss or a gradient on an accelerator was not finite.
        """
        if is_accelerator(self.counts.device):
            self._require_finite(sum_over(self.counts.clone()))
        steps, taught, *_ = self.counts.cpu().tolist()
        self.counts.zero_()
        return steps > 0 and taught == 0

    def restore(self, steps: int, taught: int) -> None:
        """Set the counts of steps and of steps with a transfer gradient."""
        for place, count in enumerate((steps, taught, 0, 0)):
            self.counts[place] = count

    def _send(self) -> None:
        """Start an asynchronous copy of the counts to pinned memory."""
        device = self.counts.device
        # In a process group all processes must raise in the same step, so they wait for the end of
        # the epoch. A copy in a CUDA graph would be of no use: replays run no Python to read it.
        if device.type not in self.PINNED or is_grouped() or _is_recording(device):
            return
        if self._copy is None:
            self._copy = torch.zeros(4, dtype=torch.int64, device="cpu", pin_memory=True)
        self._copy.copy_(self.counts, non_blocking=True)

    def _require_finite(self, counts: Tensor) -> None:
        steps, _, losses, gradients = counts.cpu().tolist()
        if losses or gradients:
            self.counts.zero_()
            self._copy = None  # copies that have started may still write to this tensor
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
    """Detects an optimizer that was given the student's parameters and not its companions'.

    Companions are what is trained beside the student: adapters, and losses with modules.

    It compares how often parameters were written to, which PyTorch counts on the host. It reports
    at most once, after the optimizer's first step.
    """

    def __init__(self) -> None:
        self.student: list[nn.Parameter] = []
        self.companions: list[nn.Parameter] = []
        self.before = (0, 0)
        self.told = False

    def see(self, student: nn.Module, *companions: nn.Module) -> None:
        """Record the parameters' write counts, before the optimizer's first step."""
        if self.told or self.companions:
            return
        self.student = list(student.parameters())
        weights = (weight for module in companions for weight in module.parameters())
        self.companions = [weight for weight in weights if weight.grad is not None]
        self.before = self._writes()

    def found(self) -> bool:
        """Whether an optimizer has since written to the student, but to no companion."""
        if self.told or not self.companions:
            return False
        student, companions = (
            now > then for now, then in zip(self._writes(), self.before, strict=True)
        )
        self.told = student or companions
        return student and not companions

    def _writes(self) -> tuple[int, int]:
        return sum(map(write_count, self.student)), sum(map(write_count, self.companions))
