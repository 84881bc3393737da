"""What an exported file is compared by: agreement with the network, and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from svdistill.common import Case, Measurement, RunError, interleave

TOLERANCE: Final = 1e-4

BATCH_SIZE: Final = 32


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from the one it was made from.

    ``difference = max |exported - original| / max |original|``, both over all logits of all images.

    Attributes:
        images: that both have classified.
        difference: the largest one between two logits, relative to the largest logit.
        changed: images that were put in another class.
    """

    images: int
    difference: float
    changed: int

    def require(self, name: str) -> None:
        """Raise `RunError` unless the classes are the same and the logits within 1e-4."""
        # A difference that is not a number is not within the tolerance either.
        if self.changed or not self.difference <= TOLERANCE:
            raise RunError(
                name,
                expected=f"the network's own classes, and logits within {TOLERANCE:g} of the "
                "largest",
                got=f"a difference of {self.difference:.1e}, and another class for "
                f"{self.changed} of {self.images} images",
                remedy="nothing was written; use the other --format",
            )


@torch.inference_mode()
def compare(
    original: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], images: Tensor
) -> Parity:
    """Let both classify the same images, in batches of 1, of 7, and of 32.

    Args:
        original: from images to logits ``[B, C]``.
        exported: likewise.
        images: float32 ``[N, 3, H, W]``, as the networks take them.

    Returns:
        How far they are from each other.

    Example:
        >>> images = torch.eye(3)
        >>> compare(lambda images: 4 * images, lambda images: 4 * images + 1, images)
        Parity(images=3, difference=0.25, changed=0)
    """
    logits = torch.cat([original(batch) for batch in _batches(images)])
    found = torch.cat([exported(batch) for batch in _batches(images)])
    return Parity(
        images=len(images),
        difference=float((found - logits).abs().max() / logits.abs().max()),
        changed=int((found.argmax(dim=1) != logits.argmax(dim=1)).sum()),
    )


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Batches of several sizes, since an exported network must take any."""
    first, few, rest = images.tensor_split((1, 8))
    yield from (batch for batch in (first, few, *rest.split(BATCH_SIZE)) if len(batch))


BATCH_SIZES: Final = (1, 32)

ROUNDS: Final = 30

LEAST_ROUNDS: Final = 3

SECONDS: Final = 5.0  # to spend on a batch size


@dataclass(frozen=True)
class BatchLatency:
    """Seconds for one forward pass of `batch_size` images on the CPU, of both networks."""

    batch_size: int
    original: Measurement
    exported: Measurement


@torch.inference_mode()
def measure_latency(
    original: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], images: Tensor
) -> tuple[BatchLatency, ...]:
    """Time both in turn, on batches of 1 and of 32 images.

    Args:
        original: from images to logits.
        exported: likewise.
        images: float32 ``[N, 3, H, W]``; repeated where they are fewer than a batch.

    Returns:
        The times by batch size; one that would take too long to measure is left out.
    """
    rows = []
    for batch_size in BATCH_SIZES:
        batch = images[torch.arange(batch_size) % len(images)]
        cases = [
            Case("original", partial(original, batch)),
            Case("exported", partial(exported, batch)),
        ]
        once = sum(tried.median for tried in interleave(cases, rounds=1))
        rounds = min(ROUNDS, int(SECONDS / once))
        if rounds >= LEAST_ROUNDS:
            rows.append(BatchLatency(batch_size, *interleave(cases, rounds)))
    return tuple(rows)
