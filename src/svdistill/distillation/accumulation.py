"""Gradient accumulation: batches that are processed in several parts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from svdistill.common import ArgumentError, require_count
from svdistill.parallel import BatchPart
from svdistill.taps import write_count


class HeldGradients:
    """The task's and the transfer gradients of a batch, summed over its parts.

    A clip compares both gradients of the whole batch, so they are kept apart until the last part.

    Attributes:
        more: whether more parts follow the current one.
        measure: whether both gradients are computed for the parts of this batch; None before the
            first part.
    """

    def __init__(self) -> None:
        self.more = False
        self.measure: bool | None = None
        self._sums: list[list[Tensor | None]] = []

    def add(self, *gradients: list[Tensor | None]) -> list[list[Tensor | None]]:
        """Add the lists of gradients of a part, and return the sums; None stands for no gradient.

        Example:
            >>> held = HeldGradients()
            >>> for part in (1.0, 2.0):
            ...     sums = held.add([Tensor([part]), None], [None, Tensor([10 * part])])
            >>> sums
            [[tensor([3.]), None], [None, tensor([30.])]]
        """
        sums = self._sums or [[None] * len(one) for one in gradients]
        self._sums = [
            [_sum(old, new) for old, new in zip(before, now, strict=True)]
            for before, now in zip(sums, gradients, strict=True)
        ]
        return self._sums


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if old is None else old if new is None else old + new


class Accumulation:
    """Counts the parts of a batch in a training loop, from one optimizer step to the next."""

    def __init__(self) -> None:
        self._images: int | None = None  # number of images in all parts of the announced batch
        self._done = 0
        self._held: HeldGradients | None = None
        self._left = LeftGradients()

    def announce(self, images: int) -> None:
        """Begin a batch that comes in parts; see `Distiller.accumulate`."""
        before, done = self._images, self._done
        self._forget()
        if done:
            raise ArgumentError(
                "accumulate",
                expected=f"all {before} images of the last batch",
                got=done,
                remedy="call `backward` for every part before the optimizer's step",
            )
        require_count("images", images)
        self._images = images

    def _forget(self) -> None:
        self._images, self._done, self._held = None, 0, None

    def next_part(self, logits: Tensor) -> BatchPart | None:
        """The part of the announced batch with these logits; None if no batch was announced.

        Raises:
            ArgumentError: the part has more images than are left of the batch.
        """
        if self._images is None:
            return None
        here, left = len(logits), self._images - self._done
        if here > left:
            raise ArgumentError(
                "images",
                expected=f"at most the {left} that are left of {self._images}",
                got=here,
                remedy="give `accumulate` the number of images of all parts together",
            )
        return BatchPart(self._images, self._images, processes=1, more=here < left)

    def begin(self, part: BatchPart | None) -> HeldGradients | None:
        """Prepare for a backward pass; return its gradient sums, None for a batch in one piece.

        Raises:
            ArgumentError: gradients of an earlier batch are still in `.grad`.
        """
        if self._held is None:
            self._left.require_used()
        if part is None or not (part.more or self._held):
            return None
        self._held = self._held or HeldGradients()
        self._held.more = part.more
        return self._held

    def end(self, logits: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
        """Record a finished backward pass, and return whether the batch is complete."""
        if self._images is not None:
            self._done += len(logits)
        if self._held is not None and self._held.more:
            return False
        self._forget()
        self._left.see(parameters)
        return True


class LeftGradients:
    """Detects gradients left in `.grad`, to which those of the next batch would be added."""

    def __init__(self) -> None:
        self._parameters: list[tuple[nn.Parameter, int]] = []
        self._gradient: Tensor | None = None
        self._writes = 0

    def see(self, parameters: Sequence[nn.Parameter]) -> None:
        """Remember the gradients of a batch."""
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        self._parameters = [(parameter, write_count(parameter)) for parameter in with_gradient]
        # Only the smallest gradient is kept and checked, since keeping it takes memory.
        self._parameters.sort(key=lambda seen: seen[0].numel())
        self._gradient = self._parameters[0][0].grad if with_gradient else None
        self._writes = 0 if self._gradient is None else write_count(self._gradient)

    def require_used(self) -> None:
        """Raise `ArgumentError` if the remembered gradients have neither been used nor cleared."""
        if (
            self._gradient is None
            or self._parameters[0][0].grad is not self._gradient
            or write_count(self._gradient) != self._writes
            or any(write_count(parameter) != writes for parameter, writes in self._parameters)
        ):
            return
        raise ArgumentError(
            "backward",
            expected="one batch for each of the optimizer's steps",
            got="gradients of an earlier batch in `.grad`, each batch clipped on its own",
            remedy="to take a batch in parts, call `distiller.accumulate(images)` with the number "
            "of images of all parts before the first forward pass; else call the optimizer's "
            "`step` and `zero_grad` after every `backward`",
        )
