"""The module that joins a frozen teacher, a student, their taps, adapters and a transfer loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from svdistill.adapters import Adapters, adapters_for
from svdistill.errors import ArgumentError, require_choice
from svdistill.frozen_teacher import FrozenTeacher
from svdistill.linalg import may_branch
from svdistill.logits import as_logits
from svdistill.losses import Knowledge, SumKnowledge, TransferLoss
from svdistill.losses.finite import source
from svdistill.multitask import (
    CLIPS,
    AmortisedBackward,
    GradientNorms,
    keep_saved_tensors,
    multitask_backward,
)
from svdistill.parallel import BatchPart
from svdistill.taps import FeatureTaps, PairedTaps, TapPairs
from svdistill.taps.pairing import require_paired, require_two
from svdistill.watching import TransferWatch, require_finite_clipped, require_finite_transfer


class DistillerOutput(NamedTuple):
    """The student's logits [B, C], and as scalars the transfer loss and the unclipped one, if any.

    `Distiller.backward` adds the unclipped loss to the task's.
    """

    logits: Tensor
    transfer_loss: Tensor
    unclipped_loss: Tensor | None = None


class _Seen:
    """What a transfer loss was given, without the graph, until its backward pass."""

    def __init__(
        self,
        transfer_loss: Tensor,
        features: Sequence[Tensor],
        logits: Tensor | None,
        knowledge: Knowledge,
    ) -> None:
        self.transfer_loss = transfer_loss.detach()
        self.features = tuple(feature.detach() for feature in features)
        self.logits = None if logits is None else logits.detach()
        self.knowledge = knowledge


class Distiller(nn.Module):
    """Teacher, student, taps, adapters and loss as one module for a training loop of your own.

    The teacher is frozen for good: no gradients, and eval mode in every forward pass, whatever
    `.train()` was called on. A transfer loss that is not finite or reaches no parameter raises; one
    that stays zero for a whole epoch warns.

    Args:
        teacher: a trained network. Its parameters stop requiring gradients. None where knowledge
            comes from elsewhere, such as a `KnowledgeStore`.
        student: the network to train, with the same classes.
        loss: what to transfer.
        taps: module paths that both networks have, `TapPairs(teacher=..., student=...)`, or what
            `pair_taps` found.
        adapters: project the student's features to the teacher's channels before the losses see
            them. None makes them where they are needed: with what `pair_taps` found, some channels
            different, and a loss that compares channels. They are trained with the student, so give
            the optimizer `trainable_parameters()`; only the transfer teaches them, with a gradient
            that `"amortised"` and `"global"` scale as the student's, and the other clips leave.
        clip: how the transfer gradient is bounded: `"amortised"`, for little more than the price of
            one gradient, see `AmortisedBackward`; or in every step, see `multitask_backward`.
        clip_interval: with `"amortised"` and `"none"`, the steps from one measurement of both
            gradients to the next; the norms that `backward` returns are those last measured.
        unclipped: a second loss that counts as part of the task: it is learnt in full, and the
            first is clipped against both. Soft targets beside `SVDLoss`, say.
        weight_decay: the optimizer's, see `multitask_backward`.

    Raises:
        ArgumentError: a tap that a network lacks, unpaired taps, adapters for another number of
            taps, one network for both, a bad clip.

    Example:
        >>> from svdistill.losses import SVDLoss
        >>> def network():
        ...     return nn.Sequential(
        ...         nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 5)
        ...     )
        >>> teacher, student = network(), network()
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> distiller = Distiller(teacher, student, SVDLoss(num_vectors=1), taps=["0", "1"])
        >>> out = distiller(images)
        >>> task_loss = nn.functional.cross_entropy(out.logits, labels)
        >>> norms = distiller.backward(task_loss, out, progress=0)
        >>> all(parameter.grad is not None for parameter in student.parameters())
        True
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        student: nn.Module,
        loss: TransferLoss,
        *,
        taps: PairedTaps | TapPairs | Sequence[str],
        adapters: Adapters | None = None,
        clip: str = "amortised",
        clip_interval: int = 10,
        unclipped: TransferLoss | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        require_choice("clip", clip, (*CLIPS, "amortised"))
        require_two(teacher, student)
        pairs = taps.pairs if isinstance(taps, PairedTaps) else taps
        teacher_paths, student_paths = pairs if isinstance(pairs, TapPairs) else (pairs, pairs)
        teacher_paths = _in_compiled(teacher, teacher_paths)
        student_paths = _in_compiled(student, student_paths)
        if teacher is not None:
            FeatureTaps(teacher, teacher_paths)  # raises before the teacher is touched
        self._student_taps = FeatureTaps(student, student_paths)
        require_paired(TapPairs(tuple(teacher_paths), tuple(student_paths)))
        self.teacher = teacher
        self.student = student
        self.loss = loss
        self.unclipped = unclipped
        self.adapters = _adapters(adapters, taps, self._losses(), len(student_paths))
        if self.adapters is not None and (weight := next(student.parameters(), None)) is not None:
            self.adapters.to(weight.device)
        needs_logits = any(part.needs_logits for part in self._losses())
        self._frozen_teacher = (
            None
            if teacher is None
            else FrozenTeacher(teacher, teacher_paths, needs_logits=needs_logits)
        )
        self.clip = clip
        self.weight_decay = weight_decay
        # Only a comparison per tensor needs both gradients in every step.
        self._amortised = {
            "amortised": AmortisedBackward(clip_interval),
            "none": AmortisedBackward(clip_interval, clip="none"),
        }.get(clip)
        self._watch = TransferWatch()
        self._seen: _Seen | None = None
        keep_saved_tensors()

    def forward(
        self,
        images: Tensor,
        knowledge: Knowledge | None = None,
        part: BatchPart | None = None,
    ) -> DistillerOutput:
        """Run teacher and student on a batch of images.

        Args:
            images: [B, ...], whatever both networks take.
            knowledge: of these very images, all that the losses read or more; the teacher is not
                run then.
            part: which part of a batch the images are, where several processes have one: the mean
                of their losses is that of the whole batch then.

        Returns:
            `DistillerOutput(logits, transfer_loss, unclipped_loss)`; the losses are 0 to rounding
            for equals.

        Raises:
            ArgumentError: neither a teacher nor knowledge, or less of it than the losses read.
        """
        parts = (
            self._extract(images)
            if knowledge is None
            else [loss.select(knowledge) for loss in self._losses()]
        )
        output, features = self._student_taps.run(images)
        logits, features = as_logits(output), self._adapted(features)
        losses = [
            loss.of_part(features, logits, known, part)
            for loss, known in zip(self._losses(), parts, strict=True)
        ]
        if losses[0].requires_grad and may_branch(losses[0].device):
            self._seen = _Seen(
                losses[0], features, logits if self.loss.needs_logits else None, parts[0]
            )
        return DistillerOutput(logits, *losses)

    def teach(self, images: Tensor) -> Knowledge:
        """What the teacher knows of a batch of images, as the losses extract it.

        Args:
            images: [B, ...].

        Raises:
            ArgumentError: there is no teacher.
        """
        parts = self._extract(images)
        return parts[0] if len(parts) == 1 else SumKnowledge(tuple(parts))

    def _adapted(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The student's features as the losses see them."""
        if self.adapters is None:
            return features
        adapted: tuple[Tensor, ...] = self.adapters(features)
        if any(feature.requires_grad for feature in features):
            return adapted
        # Of a student that passes no gradient nothing but the adapters would learn: `backward`
        # shall find that the transfer reaches nothing.
        return tuple(feature.detach() for feature in adapted)

    @torch.compiler.disable  # inference mode, and a teacher that chooses its own form
    def _extract(self, images: Tensor) -> list[Knowledge]:
        """What each loss keeps of a batch of images."""
        if self._frozen_teacher is None:
            raise ArgumentError(
                "knowledge",
                expected="the teacher's knowledge of the images, since there is no teacher",
                got="nothing",
                remedy="read it from a KnowledgeStore, or give the Distiller a teacher",
            )
        with torch.inference_mode():
            recording = self._frozen_teacher.run(images)
            parts = [loss.extract(recording.features, recording.output) for loss in self._losses()]
        # Cloned outside, it is ordinary: autograd saves no tensor of inference mode.
        return [part.map(torch.clone) for part in parts]

    def backward(
        self,
        task_loss: Tensor,
        output: DistillerOutput,
        *,
        progress: float | Tensor,
        loss_scale: float = 1.0,
        measure: bool | None = None,
    ) -> GradientNorms:
        """Fill the trainable parameters' `.grad` from both losses, the transfer's clipped.

        Args:
            task_loss: scalar, e.g. the cross-entropy of `output.logits`.
            output: what the forward pass returned.
            progress: the epoch, from 0; fractions are welcome. A scalar tensor in a step that is
                recorded, as a CUDA graph, and replayed in other epochs.
            loss_scale: fp16's factor on both losses; the gradients come out multiplied by it, and
                the optimizer's scaler divides again.
            measure: what `plan` answered; None, unless the step is recorded.

        Returns:
            Norms of both gradients, without the scale.

        Raises:
            TrainingError: the transfer loss is not finite (it names the tap and the images), or
                its gradient is not, or it reaches no parameter.
        """
        seen, self._seen = self._seen, None
        may_look = may_branch(output.transfer_loss.device)
        if may_look:
            require_finite_transfer(output.transfer_loss, lambda: self._source(seen))
        if output.unclipped_loss is not None:
            task_loss = task_loss + output.unclipped_loss
        losses = task_loss * loss_scale, output.transfer_loss * loss_scale
        parameters = self.trainable_parameters()
        decay = self.weight_decay * loss_scale
        norms = (
            multitask_backward(
                *losses, parameters, clip=self.clip, progress=progress, weight_decay=decay
            )
            if self._amortised is None
            else self._amortised(
                *losses, parameters, progress=progress, weight_decay=decay, measure=measure
            )
        )
        if may_look and loss_scale == 1.0:  # else the scaler looks, and takes a smaller one
            require_finite_clipped(norms.clipped)
        norms = GradientNorms(*(norm / loss_scale for norm in norms))
        self._watch.see(output.transfer_loss, norms.transfer, progress, self.student, self.adapters)
        return norms

    def _source(self, seen: _Seen | None) -> str:
        """From which tap a loss that is not finite comes, if it was so in the last forward pass."""
        if seen is None or bool(seen.transfer_loss.isfinite()):
            return ""
        return source(seen.features, seen.logits, seen.knowledge, self._student_taps.paths)

    def plan(self, progress: float) -> bool:
        """Which of its kinds the next step is of, if it is recorded: ask once before each.

        Args:
            progress: the epoch, from 0.

        Returns:
            Whether it takes both gradients; always so unless the clip is amortised.
        """
        return self._amortised is None or self._amortised.plan(progress)

    def measure_again(self) -> None:
        """Let nothing follow from the last step's gradients: fp16's scaler has skipped it."""
        if self._amortised is not None:
            self._amortised.measure_again()

    def end_epoch(self) -> None:
        """Warn of an epoch that taught nothing, or left the adapters as they were.

        `backward` calls it between epochs.
        """
        self._watch.end_epoch(stacklevel=3)

    def carried_state(self) -> dict[str, Any]:
        """What is carried from step to step beside parameters, to save within an epoch.

        The scale of an amortised clip, and what is watched. Plain values and tensors, no part of
        `state_dict()`; between epochs nothing of it is needed.
        """
        amortised = None if self._amortised is None else self._amortised.state_dict()
        return {"amortised": amortised, "watch": self._watch.state_dict()}

    def load_carried_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `carried_state` returned, with the same clip."""
        if self._amortised is not None:
            self._amortised.load_state_dict(state["amortised"])
        self._watch.load_state_dict(state["watch"])

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of the student, of the adapters, and of the losses where they have any."""
        modules = (self.student, self.adapters, *self._losses())
        own = [p for module in modules if module is not None for p in module.parameters()]
        return [parameter for parameter in own if parameter.requires_grad]

    def _losses(self) -> list[TransferLoss]:
        return [self.loss] if self.unclipped is None else [self.loss, self.unclipped]

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self


def _in_compiled(model: nn.Module | None, paths: Sequence[str]) -> Sequence[str]:
    """Paths of the original's modules, in what `torch.compile` made of it."""
    if isinstance(paths, str) or not isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return paths
    start = "_orig_mod."
    return [path if path.startswith(start) else start + path for path in paths]


def _adapters(
    adapters: Adapters | None,
    taps: PairedTaps | TapPairs | Sequence[str],
    losses: list[TransferLoss],
    count: int,
) -> Adapters | None:
    """The adapters that were given, or those that losses and taps need."""
    needed = any(loss.compares_channels for loss in losses)
    if adapters is None and needed and isinstance(taps, PairedTaps):
        adapters = adapters_for(taps)
    if adapters is not None and len(adapters.student_channels) != count:
        raise ArgumentError(
            "adapters",
            expected=f"one for each of the {count} taps",
            got=len(adapters.student_channels),
            remedy="give Adapters the channels of every tap, also where they agree",
        )
    return adapters
