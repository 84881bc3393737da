"""The module that joins a frozen teacher, a student, their taps, adapters and a transfer loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from svdistill.common import as_logits
from svdistill.distillation.accumulation import Accumulation
from svdistill.distillation.adapters import Adapters, adapted, adapters_or_needed, prepare_loss
from svdistill.distillation.amortised_clipping import backward_of_clip
from svdistill.distillation.checks import (
    LossInputs,
    TransferWatch,
    extracted,
    require_finite_clipped,
    require_members,
    require_no_knowledge,
    require_teacher,
    require_usable,
    tap_paths,
)
from svdistill.distillation.frozen_teacher import FrozenTeacher
from svdistill.distillation.gradient_clipping import GradientNorms, keep_saved_tensors
from svdistill.linalg import may_branch, uncompiled
from svdistill.losses import Knowledge, SumKnowledge, TransferLoss, usual_clip
from svdistill.parallel import BatchPart
from svdistill.taps import (
    FeatureTaps,
    PairedTaps,
    TapPairs,
    require_distinct_networks,
    require_equally_many,
)


class DistillerOutput(NamedTuple):
    """The result of a forward pass of `Distiller`.

    Attributes:
        logits: the student's logits [B, C].
        transfer_loss: scalar; `Distiller.backward` clips its gradient.
        unclipped_loss: scalar, which `Distiller.backward` adds to the task loss; None without
            `Distiller(unclipped=...)`.
    """

    logits: Tensor
    transfer_loss: Tensor
    unclipped_loss: Tensor | None = None


class Distiller(nn.Module):
    """Teacher, student, taps, adapters and loss as one module for a training loop of your own.

    A tap is a module whose output, its feature map, the transfer loss reads. The teacher is frozen:
    it receives no gradients, and runs in eval mode whatever `.train()` was called on. If its
    weights change, as a mean teacher's do, the next forward pass uses the new ones. Parameters and
    modules that teacher and student share are trained; the teacher runs them in eval mode.

    The teacher is not a submodule: `.to()` moves it too, but `parameters()` and `state_dict()`
    leave it out. They hold the student, the adapters, and what the losses hold.

    A transfer loss that depends on no trainable parameter raises an error; one that stays zero for
    a whole epoch causes a warning. A transfer loss that is not finite raises an error: on a CPU
    before the backward pass, naming the tap and the images; on an accelerator, where steps do not
    wait for the device, some steps later or in `end_epoch`.

    Args:
        teacher: a trained network; with `taps=[]` also a TorchScript module or an
            `ExportedProgram.module()`. `requires_grad` of its parameters is set to False. None if
            `forward` is given knowledge, as from a `KnowledgeStore`.
        student: the network to train, with the same classes.
        loss: the transfer loss. If it has trainable modules of its own, the Distiller creates
            them, and they are trained as adapters are.
        taps: module paths that both networks have, `TapPairs(teacher=..., student=...)`, or the
            result of `pair_taps`, which a loss on features with modules of its own needs.
        adapters: project the student's features to the teacher's channels. None: created where
            `taps` is the result of `pair_taps`, channels differ and a loss compares them. The
            transfer loss trains them: give the optimizer `trainable_parameters()`. Only the clips
            `"amortised"` and `"global"` scale their gradient.
        clip: how the transfer gradient is bounded: `"amortised"`, see `AmortisedBackward`, or by a
            comparison of both gradients in every step, see `multitask_backward`. None:
            `"amortised"`, or `"none"` for a loss on logits alone.
        clip_interval: with `"amortised"` and `"none"`, the number of steps from one measurement of
            both gradients to the next; `backward` returns the norms of the last measurement.
        unclipped: a second loss that counts as part of the task, such as soft targets beside
            `SVDLoss`: the transfer gradient is compared with the gradient of task and this loss.
        weight_decay: the weight decay of the optimizer, see `multitask_backward`.

    Raises:
        ArgumentError: a tap that a network lacks, unpaired taps, module paths for a loss with
            modules, adapters for another number of taps, a teacher in the student, a bad clip.

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
        clip: str | None = None,
        clip_interval: int = 10,
        unclipped: TransferLoss | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        require_members(teacher, student, loss, unclipped)
        paths = tap_paths(taps, teacher, student)
        if teacher is not None:
            FeatureTaps(teacher, paths.teacher)  # raises before the teacher is changed
        self._student_taps = FeatureTaps(student, paths.student)
        require_equally_many(paths)
        clip = clip or usual_clip(needs_taps=loss.needs_taps)
        self._backward = backward_of_clip(clip, clip_interval)
        self.student = student
        self.loss = loss
        self.unclipped = unclipped
        needed = any(one.compares_channels for one in self._losses())
        self.adapters = adapters_or_needed(adapters, taps, len(paths.student), needed=needed)
        trained = [one for one in self._losses() if one.trains_modules]
        for one in trained:
            prepare_loss(one, taps, self.adapters)
        # In a tuple, so that `nn.Module` does not register these modules a second time.
        self._companions = (*([] if self.adapters is None else [self.adapters]), *trained)
        if (weight := next(student.parameters(), None)) is not None:
            for companion in self._companions:
                companion.to(weight.device)
        self._teacher_paths = paths.teacher
        self.teacher = teacher
        self.clip = clip
        self.weight_decay = weight_decay
        self._watch = TransferWatch()
        self._inputs: LossInputs | None = None
        self._accumulation = Accumulation()
        keep_saved_tensors()

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher; may be replaced by another network with the same taps."""
        return None if self._frozen_teacher is None else self._frozen_teacher.model

    @teacher.setter
    def teacher(self, teacher: nn.Module | None) -> None:
        require_distinct_networks(teacher, self.student)
        self._frozen_teacher = None
        if teacher is not None:
            self._frozen_teacher = FrozenTeacher(
                teacher, self._teacher_paths, self._needs_logits(), self.student
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":  # nn.Module would register it, and bypass the property's setter
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
            inputs: arguments of both networks: images [B, ...], several tensors, a dictionary.
            knowledge: the teacher's knowledge of these inputs; the teacher is then not run.
            part: this process's part of a batch that is divided among processes, by which its
                losses are scaled, see `BatchPart`. None in a training loop of your own, also after
                `accumulate`.
            labels: [B], int64, for losses that read them; not passed to the networks.
            kwargs: keyword arguments of both networks.

        Raises:
            ArgumentError: there is neither a teacher nor knowledge; the knowledge lacks a part that
                a loss reads; or a loss reads labels and there are none.
        """
        require_no_knowledge(inputs)
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
        logits, features = as_logits(output), adapted(self.adapters, features)
        if part is None and torch.is_grad_enabled():
            part = self._accumulation.next_part(logits)
        losses = [
            loss.of_part(features, logits, known, part, labels)
            for loss, known in zip(self._losses(), parts, strict=True)
        ]
        if losses[0].requires_grad and may_branch(losses[0].device):
            seen = logits.detach() if self.loss.needs_logits else None
            self._inputs = LossInputs(
                losses[0].detach(), [feature.detach() for feature in features], seen, parts[0]
            )
        return DistillerOutput(logits, *losses)

    def teach(self, *inputs: Any, **kwargs: Any) -> Knowledge:
        """Run the teacher on inputs, such as images [B, ...], and return its knowledge of them.

        Raises:
            ArgumentError: there is no teacher.
        """
        require_no_knowledge(inputs)
        parts = self._extract(*inputs, **kwargs)
        return parts[0] if len(parts) == 1 else SumKnowledge(tuple(parts))

    def refresh(self) -> None:
        """Trace the teacher again in the next step.

        Only needed after a change of a value that the teacher's forward pass reads and that is
        neither in the network nor a global of its code: other changes are detected.
        """
        if self._frozen_teacher is not None:
            self._frozen_teacher.refresh()

    @uncompiled  # it runs in inference mode, and `FrozenTeacher` chooses how to run the teacher
    def _extract(self, *inputs: Any, **kwargs: Any) -> list[Knowledge]:
        """Run the teacher, and return the knowledge that each loss extracts."""
        teacher = require_teacher(self._frozen_teacher)
        teacher.needs_logits = self._needs_logits()  # another loss may have been assigned
        with torch.inference_mode():
            recording = teacher.run(*inputs, **kwargs)
            parts = [extracted(x, recording.features, recording.output) for x in self._losses()]
        # Clones made outside of inference mode are normal tensors, which autograd can save.
        return [part.map(torch.clone) for part in parts]

    def backward(
        self,
        task_loss: Tensor,
        output: DistillerOutput,
        *,
        progress: float | Tensor,
        loss_scale: float | Tensor = 1.0,
        measure: bool | None = None,
        part: BatchPart | None = None,
    ) -> GradientNorms:
        """Add the task's and the clipped transfer gradient to the trainable parameters' `.grad`.

        Call it once before each optimizer step; for gradient accumulation, see `accumulate`.

        Args:
            task_loss: scalar, e.g. the cross-entropy of `output.logits`. After `accumulate`, the
                mean over the part's images, not divided by the number of parts.
            output: the result of the forward pass.
            progress: the epoch, from 0, with or without fraction. A scalar tensor in a step that is
                recorded as a CUDA graph and replayed in other epochs.
            loss_scale: factor on both losses for training in fp16, a number or a scalar tensor.
                `.grad` is multiplied by it; the gradient scaler divides by it.
            measure: the result of `plan`, in a step recorded as a CUDA graph; otherwise None.
            part: the same as in the forward pass; `task_loss` must already be scaled by it.

        Returns:
            Norms of both gradients at the last measurement, divided by `loss_scale`.

        Raises:
            ArgumentError: a loss is no scalar, the task loss has no graph and is not 0, or
                gradients of an earlier batch are still in `.grad`.
            TrainingError: the transfer loss or its gradient is not finite, or the loss reaches no
                parameter.
        """
        inputs, self._inputs = self._inputs, None
        require_usable(task_loss, output.transfer_loss, inputs, self._student_taps.paths)
        if part is None and (part := self._accumulation.next_part(output.logits)) is not None:
            task_loss = task_loss * part.of_mean(len(output.logits))
        held = self._accumulation.begin(part)
        if output.unclipped_loss is not None:
            task_loss = task_loss + output.unclipped_loss
        losses = task_loss * loss_scale, output.transfer_loss * loss_scale
        parameters = self.trainable_parameters()
        decay = self.weight_decay and self.weight_decay * loss_scale
        options: dict[str, Any] = {"progress": progress, "weight_decay": decay, "held": held}
        norms = self._backward(*losses, parameters, measure=measure, **options)
        if not self._accumulation.end(output.logits, parameters):
            return norms
        scaled = isinstance(loss_scale, Tensor) or loss_scale != 1.0
        if not scaled:
            require_finite_clipped(norms.clipped)
        norms = GradientNorms(*(norm / loss_scale for norm in norms))
        self._watch.see(output.transfer_loss, norms, progress, scaled=scaled)
        if self._companions:
            self._watch.untrained.see(self.student, *self._companions)
        return norms

    def accumulate(self, images: int) -> None:
        """Start gradient accumulation: the next batch comes in several parts.

        The parts' gradients add up to those of the whole batch. Call it before the forward pass of
        the first part. Parts may differ in size. Both gradients are summed over the parts before
        the clip compares them, which takes the memory of two more gradients in a step that measures
        norms. `.grad` is complete after the last part's `backward`; until then it may be empty, and
        the norms are NaN.

        Batch norm in training mode computes its statistics of each part alone, and dropout draws
        its random numbers for each part. A loss that relates images (`relates_images`) raises.

        Args:
            images: number of images of all parts together, in this process.

        Raises:
            ArgumentError: `images` is not a positive number, or parts of the previous batch are
                missing; that batch is then discarded.

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
        self._accumulation.announce(images)

    def plan(self, progress: float) -> bool:
        """Whether the next step, of epoch `progress`, computes both gradients; call it once."""
        return self._backward.plan(progress)

    def measure_again(self) -> None:
        """Compute both gradients in the next step; call it after the fp16 scaler skipped a step."""
        self._backward.measure_again()

    def end_epoch(self) -> None:
        """Warn if the transfer loss had no effect in this epoch, or adapters were not trained.

        `backward` calls it when a new epoch begins; call it yourself after the last epoch. It
        synchronises with the device.

        Raises:
            TrainingError: a loss or a gradient on an accelerator was not finite.
        """
        self._watch.end_epoch(stacklevel=3)

    def carried_state(self) -> dict[str, Any]:
        """What a checkpoint within an epoch needs beside `state_dict()`: scale and counts."""
        return {"amortised": self._backward.state_dict(), "watch": self._watch.state_dict()}

    def load_carried_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `carried_state` of a Distiller with the same `clip`."""
        self._backward.load_state_dict(state["amortised"])
        self._watch.load_state_dict(state["watch"])

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters of student, adapters and losses that require gradients, each once."""
        modules = (self.student, self.adapters, *self._losses())
        own = [p for module in modules if module is not None for p in module.parameters()]
        return list(dict.fromkeys(parameter for parameter in own if parameter.requires_grad))

    def _losses(self) -> list[TransferLoss]:
        return [self.loss] if self.unclipped is None else [self.loss, self.unclipped]

    def _needs_logits(self) -> bool:
        return any(loss.needs_logits for loss in self._losses())

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self._frozen_teacher is not None:  # a loss may hold a part of the teacher
            for module in self._frozen_teacher.rest():
                module.training = mode
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if recurse and self.teacher is not None:
            self.teacher._apply(fn)
        return self
