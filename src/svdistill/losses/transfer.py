"""The two halves of every transfer loss, and what losses share: checks and scaling."""

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
    """The information that a loss keeps of a teacher for one batch: small, detached, batch first.

    Children are frozen dataclasses whose fields are tensors, other knowledge, or tuples of either.
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


def _knowledge_in(value: Any) -> Iterator[Knowledge]:
    """A knowledge and all that it is made of, the whole before its parts."""
    if isinstance(value, Knowledge):
        yield value
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from _knowledge_in(item)


class TransferLoss(nn.Module, abc.ABC):
    """A way to teach: what to keep of a teacher, and how far a student is from it.

    On a CPU a loss that is not finite raises `TrainingError` in its backward pass, before any
    gradient is made, and names the tap and the images. On an accelerator no step reads a number:
    the `Distiller` raises some steps later. A finite loss has a finite gradient, however small,
    large or degenerate the maps are.

    `features` are the tapped maps in the order of the taps, each [B, D, H, W], [B, D, T, H, W],
    [B, T, D] or [B, D]; `logits` are [B, C], or [B, C, ...] of dense predictions. A new method is
    one child of this class in a file of its own.

    Attributes:
        needs_taps: whether the features are read at all.
        needs_logits: whether `extract` reads the teacher's logits. Otherwise a teacher is run to
            its last tap only, and `extract` is given None for them.
        needs_labels: whether `forward` reads the labels. Otherwise it is not given them.
        compares_channels: whether a student's tap must have its teacher's number of channels.
        relates_images: whether the loss of an image depends on the others of its batch. Such a loss
            refuses a part of a batch.
        trains_modules: whether it trains modules of its own, which `prepare` makes.
        knowledge_type: what `extract` returns, by which `select` finds it in a sum.
        reduction: over images, `"mean"` or `"sum"`; determines how the losses of a batch's parts
            are combined.

    Raises:
        ArgumentError: `needs_labels`, and a `forward` that takes none.
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
        """Make the modules that the loss trains: a Distiller calls it if `trains_modules` is set.

        Args:
            student_channels: of every tap that `forward` is given, so after any adapters.
            teacher_channels: of every tap that `extract` is given.
        """

    @abc.abstractmethod
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> Any:
        """The teacher's half: its knowledge of one batch, detached from its graph."""

    @abc.abstractmethod
    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: Any,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The student's half: a scalar, 0 where student and teacher relate their maps alike.

        A loss that reads no labels may leave out that parameter.
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

        Its mean over the processes is the loss of the whole batch.

        Args:
            features: as `forward` takes them, of this part.
            logits: the same.
            knowledge: the same.
            part: None where the process has the whole batch.
            labels: [B], int64, of this part; a negative one is of an image without a label.

        Raises:
            ArgumentError: no labels for a loss that reads them, or only a part of the batch for
                one that relates images.
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
        """Whether a knowledge is of this loss's type and holds all that the loss reads."""
        return isinstance(knowledge, self.knowledge_type)

    def select(self, knowledge: Knowledge) -> Any:
        """The loss's own part of a larger knowledge, such as another loss's or a sum's.

        Raises:
            ArgumentError: the knowledge has no such part.
        """
        for part in _knowledge_in(knowledge):
            if self.can_read(part):
                return part
        raise ArgumentError(
            "knowledge",
            expected=f"{self.knowledge_type.__name__} that is enough for {self}",
            got=knowledge,
            remedy="extract it with this loss, or with one that needs more",
        )


def guard(loss: TransferLoss, arguments: Sequence[Any], value: Tensor) -> None:
    """Let the backward pass of a loss that is not finite raise, before any gradient is made.

    A forward hook of every `TransferLoss`. It does nothing in traced code, nor on an accelerator,
    where the `Distiller` finds such a loss some steps later.
    """
    if not value.requires_grad or len(arguments) < 3 or not may_branch(value.device):
        return
    features, logits, knowledge = arguments[:3]
    # Not the graph's own tensors: their hook would keep them, and the graph, alive for good.
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
    """A feature map as matrices [B, N, D], positions by channels.

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
    """A tensor over its largest magnitude along some dimensions, as if that were a constant.

    For what does not depend on the scale: its squares then stay in the dtype's range. Magnitudes
    that are all below `smallest_magnitude` stay as they are.

    Example:
        >>> scaled(torch.tensor([[3e30, -6e30], [0.0, 0.0]]), (1,))
        tensor([[ 0.5000, -1.0000],
                [ 0.0000,  0.0000]])
    """
    largest = largest_magnitude(tensor.detach(), dims)
    return tensor / torch.where(largest > smallest_magnitude(tensor.dtype), largest, 1.0)


def smallest_magnitude(dtype: torch.dtype) -> float:
    """The magnitude up to which a vector counts as zero, since its gradient could overflow.

    Example:
        >>> smallest_magnitude(torch.float32) < 1e-29
        True
    """
    return float(torch.finfo(dtype).tiny ** 0.8)


def unit_vectors(tensor: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """A tensor over its 2-norm along some dimensions; zeros stay zero, and no gradient is NaN.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    dims = (dims,) if isinstance(dims, int) else dims
    tensor = scaled(tensor, dims)
    norm = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    # Scaled, every norm is 1 or more.
    return tensor / torch.where(norm > 0.5, norm, 1.0)


def require_taps(features: Sequence[Tensor], at_least: int = 2) -> None:
    """Raise unless there are as many taps as the loss needs: two, to relate neighbours."""
    if len(features) < at_least:
        raise ArgumentError(
            "features",
            expected=f"at least {at_least} feature map{'s' if at_least > 1 else ''}",
            got=len(features),
            remedy="tap more modules",
        )


def require_match(what: str, student: object, teacher: object, remedy: str) -> None:
    """Raise unless the student's count, channels or batch size equals the teacher's."""
    if student != teacher:
        raise ArgumentError(what, expected=f"the teacher's {teacher}", got=student, remedy=remedy)


def require_channels(taps: str, student: object, teacher: object) -> None:
    """Raise unless a student's channels equal the teacher's; the message names the remedies."""
    require_match(
        f"channels at {taps}",
        student,
        teacher,
        "give Distiller the taps of pair_taps(teacher, student, images), which adapts them, or "
        "adapters=Adapters(student_channels, teacher_channels); or use PositionGramLoss, which "
        "compares no channels",
    )
