"""The module that joins a frozen teacher, a student, their taps, adapters and a transfer loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, as_logits, require_choice
from svdistill.distillation.accumulation import BatchInParts, HeldGradients, LeftGradients
from svdistill.distillation.adapters import Adapters, adapters_or_needed
from svdistill.distillation.amortised_clipping import AmortisedBackward
from svdistill.distillation.checks import (
    TransferWatch,
    require_finite_clipped,
    require_finite_transfer,
)
from svdistill.distillation.frozen_teacher import FrozenTeacher
from svdistill.distillation.gradient_clipping import (
    CLIPS,
    GradientNorms,
    keep_saved_tensors,
    multitask_backward,
)
from svdistill.distillation.teacher_forms import require_module
from svdistill.linalg import may_branch, uncompiled
from svdistill.losses import Knowledge, SumKnowledge, TransferLoss, source
from svdistill.parallel import BatchPart
from svdistill.taps import FeatureTaps, PairedTaps, TapPairs, require_paired, require_two


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
    `.train()` was called on. It teaches what it is in that step, also where something else changes
    it, as in a mean teacher. Parameters and modules that the student has too stay the student's:
    they are trained with it, and the teacher uses them in eval mode as they are.

    The teacher is no submodule: it follows `.to()`, but is no part of `parameters()` nor of
    `state_dict()`, which holds the student, the adapters, and what the losses hold.

    A transfer loss that is not finite or reaches no parameter raises; one that stays zero for a
    whole epoch warns.

    Args:
        teacher: a trained network, TorchScript and `ExportedProgram.module()` too where no tap is
            read. Its parameters stop requiring gradients. None where knowledge comes from
            elsewhere, such as a `KnowledgeStore`.
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
            taps, one network for both or a student that contains the teacher, a bad clip.

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
        require_module("student", student)
        if teacher is not None:
            require_module("teacher", teacher)
        require_two(teacher, student)
        pairs = taps.pairs if isinstance(taps, PairedTaps) else taps
        teacher_paths, student_paths = pairs if isinstance(pairs, TapPairs) else (pairs, pairs)
        teacher_paths = _in_compiled(teacher, teacher_paths)
        student_paths = _in_compiled(student, student_paths)
        if teacher is not None:
            FeatureTaps(teacher, teacher_paths)  # raises before the teacher is touched
        self._student_taps = FeatureTaps(student, student_paths)
        require_paired(TapPairs(tuple(teacher_paths), tuple(student_paths)))
        self.student = student
        self.loss = loss
        self.unclipped = unclipped
        needed = any(part.compares_channels for part in self._losses())
        self.adapters = adapters_or_needed(adapters, taps, len(student_paths), needed=needed)
        if self.adapters is not None and (weight := next(student.parameters(), None)) is not None:
            self.adapters.to(weight.device)
        self._teacher_paths = tuple(teacher_paths)
        self.teacher = teacher
        self.clip = clip
        self.weight_decay = weight_decay
        # Only a comparison per tensor needs both gradients in every step.
        self._amortised = {
            "amortised": AmortisedBackward(clip_interval),
            "none": AmortisedBackward(clip_interval, clip="none"),
        }.get(clip)
        self._watch = TransferWatch()
        self._seen: _Seen | None = None
        self._batch: BatchInParts | None = None
        self._held = HeldGradients()
        self._left = LeftGradients()
        keep_saved_tensors()

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher; another one may be assigned, with the same taps."""
        return None if self._frozen_teacher is None else self._frozen_teacher.model

    @teacher.setter
    def teacher(self, teacher: nn.Module | None) -> None:
        require_two(teacher, self.student)
        needs_logits = any(part.needs_logits for part in self._losses())
        self._frozen_teacher = (
            None
            if teacher is None
            else FrozenTeacher(
                teacher, self._teacher_paths, needs_logits=needs_logits, student=self.student
            )
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":  # nn.Module would register it, and never ask the property
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(
        self,
        *inputs: Any,
        knowledge: Knowledge | None = None,
        part: BatchPart | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> DistillerOutput:
        """Run teacher and student on a batch.

        Args:
            inputs: what both networks take: images [B, ...], several tensors, a dictionary.
            knowledge: of these very inputs, all that the losses read or more; the teacher is not
                run then.
            part: which part of a batch the inputs are, where several processes have one: the mean
                of their losses is that of the whole batch then. None in a loop of your own, also
                for the parts that `accumulate` announces.
            labels: [B], int64, for losses that read them; the networks do not get them.
            kwargs: passed on to both networks, like `inputs`.

        Returns:
            `DistillerOutput(logits, transfer_loss, unclipped_loss)`; the losses are 0 to rounding
            for equals.

        Raises:
            ArgumentError: neither a teacher nor knowledge, or less of it than the losses read; no
                labels for a loss that reads them.
        """
        _require_no_knowledge(inputs)
        if self._student_taps.model is not self.student:  # another one was assigned
            self._student_taps = FeatureTaps(self.student, self._student_taps.paths)
            if self._frozen_teacher is not None:
                self._frozen_teacher.student = self.student
        parts = (
            self._extract(*inputs, **kwargs)
            if knowledge is None
            else [loss.select(knowledge) for loss in self._losses()]
        )
        output, features = self._student_taps.run(*inputs, **kwargs)
        logits, features = as_logits(output), self._adapted(features)
        if part is None and self._batch is not None and torch.is_grad_enabled():
            part = self._batch.part(len(logits))
        losses = [
            loss.of_part(features, logits, known, part, labels)
            for loss, known in zip(self._losses(), parts, strict=True)
        ]
        if losses[0].requires_grad and may_branch(losses[0].device):
            self._seen = _Seen(
                losses[0], features, logits if self.loss.needs_logits else None, parts[0]
            )
        return DistillerOutput(logits, *losses)

    def teach(self, *inputs: Any, **kwargs: Any) -> Knowledge:
        """What the teacher knows of a batch, as the losses extract it.

        Args:
            inputs: what the teacher takes, such as images [B, ...].
            kwargs: likewise.

        Raises:
            ArgumentError: there is no teacher.
        """
        _require_no_knowledge(inputs)
        parts = self._extract(*inputs, **kwargs)
        return parts[0] if len(parts) == 1 else SumKnowledge(tuple(parts))

    def refresh(self) -> None:
        """Look at the teacher anew in the next step.

        Only needed where its forward pass reads a value that is neither in the network nor in its
        code's own globals: every other change is noticed.
        """
        if self._frozen_teacher is not None:
            self._frozen_teacher.refresh()

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

    @uncompiled  # inference mode, and a teacher that chooses its own form
    def _extract(self, *inputs: Any, **kwargs: Any) -> list[Knowledge]:
        """What each loss keeps of a batch."""
        if self._frozen_teacher is None:
            raise ArgumentError(
                "knowledge",
                expected="the teacher's knowledge of the images, since there is no teacher",
                got="nothing",
                remedy="read it from a KnowledgeStore, or give the Distiller a teacher",
            )
        needs_logits = any(part.needs_logits for part in self._losses())
        if needs_logits != self._frozen_teacher.needs_logits:  # another loss was assigned
            self._frozen_teacher.needs_logits = needs_logits
            self._frozen_teacher.refresh()
        with torch.inference_mode():
            recording = self._frozen_teacher.run(*inputs, **kwargs)
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
        part: BatchPart | None = None,
    ) -> GradientNorms:
        """Fill the trainable parameters' `.grad` from both losses, the transfer's clipped.

        One call, then the optimizer's step. A batch that comes in parts is announced by
        `accumulate`; a second call without it, while `.grad` is as the first one left it, raises:
        each part would be clipped on its own.

        Args:
            task_loss: scalar, e.g. the cross-entropy of `output.logits`. After `accumulate`, the
                mean over the part's images, not divided by the number of parts.
            output: what the forward pass returned.
            progress: the epoch, from 0; fractions are welcome. A scalar tensor in a step that is
                recorded, as a CUDA graph, and replayed in other epochs.
            loss_scale: fp16's factor on both losses; the gradients come out multiplied by it, and
                the optimizer's scaler divides again. It is no share of a batch: see `accumulate`.
            measure: what `plan` answered; None, unless the step is recorded.
            part: what the forward pass was given; the task loss is scaled by it already.

        Returns:
            Norms of both gradients, without the scale, as of the last measurement.

        Raises:
            ArgumentError: gradients of an earlier batch are still there.
            TrainingError: the transfer loss is not finite (it names the tap and the images), or
                its gradient is not, or it reaches no parameter.
        """
        seen, self._seen = self._seen, None
        if part is None and self._batch is not None:
            part = self._batch.part(len(output.logits))
            task_loss = task_loss * part.of_mean(len(output.logits))
        held = self._held if part is not None and (part.more or self._held.begun) else None
        may_look = may_branch(output.transfer_loss.device)
        if may_look and not self._held.begun:
            self._left.require_used()
        if may_look:
            require_finite_transfer(output.transfer_loss, lambda: self._source(seen))
        if output.unclipped_loss is not None:
            task_loss = task_loss + output.unclipped_loss
        if held is not None:
            held.begun, held.more = True, part is not None and part.more
        losses = task_loss * loss_scale, output.transfer_loss * loss_scale
        parameters = self.trainable_parameters()
        decay = self.weight_decay * loss_scale
        options: dict[str, Any] = {"progress": progress, "weight_decay": decay, "held": held}
        norms = (
            multitask_backward(*losses, parameters, clip=self.clip, **options)
            if self._amortised is None
            else self._amortised(*losses, parameters, measure=measure, **options)
        )
        if self._batch is not None:
            self._batch.done += len(output.logits)
        if held is not None and held.more:
            return norms
        self._held.clear()
        self._batch = None
        if may_look:
            self._left.see(parameters)
        if may_look and loss_scale == 1.0:  # else the scaler looks, and takes a smaller one
            require_finite_clipped(norms.clipped)
        norms = GradientNorms(*(norm / loss_scale for norm in norms))
        self._watch.see(output.transfer_loss, norms.transfer, progress, self.student, self.adapters)
        return norms

    def accumulate(self, images: int) -> None:
        """Announce a batch in parts, whose gradients come to those of the whole batch.

        Call it before the forward pass of the first part. The losses are then shares of the whole
        batch's, by each one's reduction over images; parts may differ in size. Both gradients are
        summed over the parts before the clip compares them, and `.grad` is complete after the last
        part's `backward`: before it, `.grad` may hold nothing, and the norms are NaN. A step that
        measures holds both sums, two gradients more than otherwise.

        What sees more than one image of a batch differs from the whole batch: batch norm's
        statistics in training mode, a loss of your own that relates images (none of svdistill's
        does), and random numbers such as dropout's.

        Args:
            images: of all parts together, in this process.

        Raises:
            ArgumentError: not a positive number, or a batch before lacks some of its parts, which
                are forgotten.

        Example:
            >>> from svdistill.losses import SVDLoss
            >>> def network():
            ...     layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
            ...     return nn.Sequential(*layers)
            >>> distiller = Distiller(network(), network(), SVDLoss(), taps=["0", "1"])
            >>> images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
            >>> distiller.accumulate(len(images))
            >>> for part, its_labels in zip(images.split(4), labels.split(4)):
            ...     out = distiller(part)
            ...     task_loss = nn.functional.cross_entropy(out.logits, its_labels)
            ...     norms = distiller.backward(task_loss, out, progress=0)
            >>> norms.task.isfinite()  # then the optimizer's step
            tensor(True)
        """
        before, self._batch = self._batch, None
        self._held.clear()
        if before is not None:
            before.require_new()
        self._batch = BatchInParts(images)

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
        """Parameters of the student, of the adapters, and of the losses where they have any.

        Each once, also where a loss holds a part of the student.
        """
        modules = (self.student, self.adapters, *self._losses())
        own = [p for module in modules if module is not None for p in module.parameters()]
        return list(dict.fromkeys(parameter for parameter in own if parameter.requires_grad))

    def _losses(self) -> list[TransferLoss]:
        return [self.loss] if self.unclipped is None else [self.loss, self.unclipped]

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self._frozen_teacher is not None:  # a loss may hold a part of it
            for module in self._frozen_teacher.rest():
                module.training = mode
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if recurse and self.teacher is not None:
            self.teacher._apply(fn)
        return self


def _in_compiled(model: nn.Module | None, paths: Sequence[str]) -> Sequence[str]:
    """Paths of the original's modules, in what `torch.compile` made of it."""
    if isinstance(paths, str) or not isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return paths
    start = "_orig_mod."
    return [path if path.startswith(start) else start + path for path in paths]


def _require_no_knowledge(inputs: tuple[Any, ...]) -> None:
    if any(isinstance(given, Knowledge) for given in inputs):
        raise ArgumentError(
            "knowledge",
            expected="a keyword argument: the others are passed on to the networks",
            got="knowledge by position",
            remedy="write distiller(images, knowledge=knowledge)",
        )
