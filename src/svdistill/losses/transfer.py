"""Base classes of transfer losses and of their knowledge, and checks and scaling they share."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError
from svdistill.linalg import largest_magnitude, may_branch
from svdistill.losses.finite import not_finite, source
from svdistill.parallel import BatchPart

REDUCTIONS: Final = ("sum", "mean")


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What a loss keeps of a teacher for one batch: detached tensors, batch dimension first.

    Subclasses are frozen dataclasses whose fields are tensors, `Knowledge`, or tuples of either.
    """

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        collected: list[Tensor] = []

        def collect(tensor: Tensor) -> Tensor:
            collected.append(tensor)
            return tensor

        self.map(collect)
        return tuple(collected)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same knowledge with the function applied to every tensor."""
        fields = dataclasses.fields(self)
        return type(self)(*(_map(getattr(self, field.name), function) for field in fields))

    def __str__(self) -> str:
        """The shapes of one image's tensors, for messages."""
        return repr(_map(self, lambda tensor: list(tensor.shape[1:])))


def _map(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)
    return value.map(function) if isinstance(value, Knowledge) else function(value)


def knowledge_in(value: Any) -> Iterator[Knowledge]:
    """Yield a knowledge and, recursively, every knowledge inside it, the outer one first."""
    if isinstance(value, Knowledge):
        yield value
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from knowledge_in(item)


class TransferLoss(nn.Module, abc.ABC):
    """Base class of losses that compare a student with the knowledge extracted from its teacher.

    `extract` computes the teacher's knowledge, and `forward` the student's loss from it. `features`
    are the tapped maps in the order of the taps, each [B, D, H, W], [B, D, T, H, W], [B, T, D] or
    [B, D]; `logits` are [B, C], or [B, C, ...] for dense predictions.

    On a CPU a loss that is not finite raises `TrainingError` in its backward pass, before any
    gradient is computed; the message names the tap and the images. On an accelerator, where reading
    the loss would make the host wait, the `Distiller` raises the error some steps later. A finite
    loss has a finite gradient, however small, large or degenerate the maps are.

    Attributes:
        needs_taps: whether the loss reads the features.
        needs_logits: whether `extract` reads the teacher's logits. Otherwise a teacher is run to
            its last tap only, and `extract` is given None as logits.
        needs_labels: whether `forward` reads the labels. Otherwise it is called without them.
        compares_channels: whether a student's tap must have its teacher's number of channels.
        relates_images: whether the loss of an image depends on the other images of its batch. Such
            a loss raises an error if it is given only a part of a batch.
        trains_modules: whether the loss trains modules of its own, which `prepare` creates.
        knowledge_type: the class that `extract` returns; `select` looks for it in a sum.
        reduction: over images, `"mean"` or `"sum"`; determines how the losses of a batch's parts
            are combined.

    Raises:
        ArgumentError: `needs_labels` is set, and `forward` has no parameter `labels`.
    """

    needs_taps: bool = True
    needs_logits: bool = True
    needs_labels: bool = False
    compares_channels: bool = True
    relates_images: bool = False
    trains_modules: bool = False
    knowledge_type: type[Knowledge] = Knowledge
    reduction: str = "mean"

    def __init__(self) -> None:
        super().__init__()
        if self.needs_labels and not _takes_labels(self.forward):
            raise ArgumentError(
                f"{type(self).__name__}.forward",
                expected="a parameter `labels`, since needs_labels is set",
                got=f"forward{inspect.signature(self.forward)}",
                remedy="add `labels=None` as the last one, or leave needs_labels out",
            )
        self.register_forward_hook(guard)

    def prepare(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """Create the modules that the loss trains; a Distiller calls it if `trains_modules` is set.

        Args:
            student_channels: number of channels of every tap that `forward` is given, so after any
                adapters.
            teacher_channels: number of channels of every tap that `extract` is given.
        """

    @abc.abstractmethod
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> Any:
        """The knowledge that the loss needs of a teacher for one batch, detached from the graph."""

    @abc.abstractmethod
    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: Any,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student, a scalar; 0 if what it compares is equal in student and teacher.

        A loss that reads no labels may omit the parameter `labels`.
        """

    def of_part(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: Any,
        part: BatchPart | None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of this process's part of a batch.

        The mean of these losses over the processes is the loss of the whole batch.

        Args:
            features: the student's features of this part, as in `forward`.
            logits: the student's logits of this part.
            knowledge: the teacher's knowledge of this part.
            part: how this part relates to its batch; None if it is the whole batch.
            labels: [B], int64, of this part; an image without a label has a negative number.

        Raises:
            ArgumentError: no labels are given to a loss that reads them, or only a part of the
                batch to a loss that relates images.
        """
        if self.relates_images and part is not None and part.images != len(logits):
            raise ArgumentError(
                type(self).__name__,
                expected=f"all {part.images} images of a batch at once, since it relates them",
                got=f"{len(logits)} of them",
                remedy="train in one process and without accumulate, or choose another loss",
            )
        if not self.needs_labels:
            loss: Tensor = self(features, logits, knowledge)
        elif labels is None:
            raise ArgumentError(
                "labels",
                expected=f"the images' labels, which {type(self).__name__} reads",
                got="nothing",
                remedy="call the Distiller with labels=labels",
            )
        else:
            loss = self(features, logits, knowledge, labels=labels)
        if part is None:
            return loss
        return loss * (part.of_sum() if self.reduction == "sum" else part.of_mean(len(logits)))

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether a knowledge has this loss's type and contains everything that the loss reads."""
        return isinstance(knowledge, self.knowledge_type)

    def select(self, knowledge: Knowledge) -> Any:
        """The part that this loss reads of a larger knowledge, such as that of a sum of losses.

        Raises:
            ArgumentError: the knowledge contains no part that this loss can read.
        """
        for part in knowledge_in(knowledge):
            if self.can_read(part):
                return part
        raise ArgumentError(
            "knowledge",
            expected=f"{self.knowledge_type.__name__} that is enough for {self}",
            got=knowledge,
            remedy="extract it with this loss, or with one that needs more",
        )


def guard(loss: TransferLoss, arguments: Sequence[Any], value: Tensor) -> None:
    """Make the backward pass raise `TrainingError` if the loss is not finite.

    Every `TransferLoss` has this forward hook. It does nothing in traced code or on an accelerator,
    where the `Distiller` detects a loss that is not finite some steps later.
    """
    if not value.requires_grad or len(arguments) < 3 or not may_branch(value.device):
        return
    features, logits, knowledge = arguments[:3]
    # Detached: a hook that refers to tensors of the graph would keep the graph alive for good.
    logits = logits.detach() if loss.needs_logits else None
    seen: list[Any] = [[feature.detach() for feature in features], logits, knowledge]
    finite = value.detach()

    def look(_gradient: Tensor) -> None:
        if not may_branch(finite.device) or bool(finite.isfinite().all()):
            seen.clear()
            return
        raise not_finite(type(loss).__name__, finite, source(*seen) if seen else "")

    value.register_hook(look)


def _takes_labels(forward: Callable[..., Tensor]) -> bool:
    parameters = inspect.signature(forward).parameters.values()
    return any(one.name == "labels" or one.kind is one.VAR_KEYWORD for one in parameters)


def as_matrices(feature_map: Tensor) -> Tensor:
    """Convert a feature map to matrices [B, N, D] of N positions by D channels.

    Args:
        feature_map: [B, D, H, W] or [B, D, T, H, W] maps, [B, T, D] tokens (returned as they are),
            or [B, D] vectors.

    Example:
        >>> import torch
        >>> as_matrices(torch.zeros(2, 5, 3, 4)).shape
        torch.Size([2, 12, 5])
    """
    if feature_map.ndim in (4, 5):
        return feature_map.flatten(2).mT
    if feature_map.ndim == 3:
        return feature_map
    if feature_map.ndim == 2:
        return feature_map[:, None, :]
    raise ArgumentError(
        "features",
        expected="maps [B, D, H, W] or [B, D, T, H, W], tokens [B, T, D] or vectors [B, D]",
        got=f"shape {tuple(feature_map.shape)}",
        remedy="tap a module with such an output",
    )


def scaled(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide a tensor by its largest magnitude along some dimensions, treated as a constant.

    This keeps squares within the dtype's range, in functions that do not depend on the scale. Where
    all magnitudes are below `smallest_magnitude`, the tensor is not divided.

    Example:
        >>> scaled(torch.tensor([[3e30, -6e30], [0.0, 0.0]]), (1,))
        tensor([[ 0.5000, -1.0000],
                [ 0.0000,  0.0000]])
    """
    largest = largest_magnitude(tensor.detach(), dims)
    return tensor / torch.where(largest > smallest_magnitude(tensor.dtype), largest, 1.0)


def smallest_magnitude(dtype: torch.dtype) -> float:
    """The magnitude up to which a vector is not normalised, since its gradient could overflow.

    Example:
        >>> smallest_magnitude(torch.float32) < 1e-29
        True
    """
    return float(torch.finfo(dtype).tiny ** 0.8)


def unit_vectors(tensor: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Divide a tensor by its 2-norm along some dimensions; zeros stay zero, without NaN gradients.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    dims = (dims,) if isinstance(dims, int) else dims
    tensor = scaled(tensor, dims)
    norm = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    # The norm of a vector that was scaled is at least 1.
    return tensor / torch.where(norm > 0.5, norm, 1.0)


def require_taps(features: Sequence[Tensor], at_least: int = 2) -> None:
    """Raise `ArgumentError` if there are fewer taps than the loss needs; pairs need two."""
    if len(features) < at_least:
        raise ArgumentError(
            "features",
            expected=f"at least {at_least} feature map{'s' if at_least > 1 else ''}",
            got=len(features),
            remedy="tap more modules",
        )


def require_match(what: str, student: object, teacher: object, remedy: str) -> None:
    """Raise `ArgumentError` unless the student's count, channels or shape equals the teacher's."""
    if student != teacher:
        raise ArgumentError(what, expected=f"the teacher's {teacher}", got=student, remedy=remedy)


def require_channels(taps: str, student: object, teacher: object) -> None:
    """Raise `ArgumentError` unless the student's channels equal the teacher's, with remedies."""
    require_match(
        f"channels at {taps}",
        student,
        teacher,
        "give Distiller the taps of pair_taps(teacher, student, images), which adapts them, or "
        "adapters=Adapters(student_channels, teacher_channels); or use PositionGramLoss, which "
        "compares no channels",
    )
