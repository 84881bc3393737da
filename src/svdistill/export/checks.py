"""Compare an exported file with its network: agreement of the logits, accuracy, latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from svdistill.common import Case, Measurement, RunError, interleave

# By precision: the largest difference of the logits, relative to the largest logit, and the
# largest share of images in another class.
TOLERANCES: Final = {"float32": (1e-4, 0.0), "fp16": (1e-2, 0.01)}

BATCH_SIZE: Final = 32

LATENCY_BATCH_SIZES: Final = (1, 32)

ROUNDS: Final = 30

MIN_ROUNDS: Final = 3

SECONDS: Final = 5.0  # at most, for the latency of a batch size


@torch.inference_mode()
def logits_of(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Classify images in batches of 1, of 7, and of 32: exported networks take any batch size."""
    first, few, rest = images.tensor_split((1, 8))
    batches = (batch for batch in (first, few, *rest.split(BATCH_SIZE)) if len(batch))
    return torch.cat([network(batch) for batch in batches])


@dataclass(frozen=True)
class Parity:
    """How far the logits of an exported network are from those of the original.

    ``difference = max |exported - original| / max |original|``, both over all logits of all images.

    Attributes:
        images: number of compared images.
        difference: the largest difference of two logits, relative to the largest logit.
        changed: number of images that are put in another class.
    """

    images: int
    difference: float
    changed: int

    def require(self, name: str, precision: str = "float32") -> None:
        """Raise `RunError` unless the logits and classes agree within `TOLERANCES`."""
        tolerance, share = TOLERANCES[precision]
        # NaN is not within the tolerance either.
        if self.changed > share * self.images or not self.difference <= tolerance:
            other = "the other --format" if precision == "float32" else "--precision float32"
            raise RunError(
                name,
                expected=f"the network's own class for {1 - share:.0%} of the images, and logits "
                f"within {tolerance:g} of the largest",
                got=f"a difference of {self.difference:.1e}, and another class for "
                f"{self.changed} of {self.images} images",
                remedy=f"nothing was written; use {other}",
            )


def compare(original: Tensor, exported: Tensor) -> Parity:
    """Compare the logits of two networks on the same images.

    Args:
        original: ``[N, C]``.
        exported: ``[N, C]``.

    Example:
        >>> logits = 4 * torch.eye(3)
        >>> compare(logits, logits + 1)
        Parity(images=3, difference=0.25, changed=0)
    """
    return Parity(
        images=len(original),
        difference=float((exported - original).abs().max() / original.abs().max()),
        changed=int((exported.argmax(dim=1) != original.argmax(dim=1)).sum()),
    )


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The percentage of images whose largest logit is that of their label.

    Example:
        >>> accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]))
        75.0
    """
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())


def require_accuracy(name: str, before: float, after: float, tolerance: float) -> None:
    """Raise `RunError` if an accuracy falls by more than `tolerance` percentage points."""
    if before - after > tolerance + 1e-9:  # rounding of percentages
        raise RunError(
            name,
            expected=f"an accuracy of the int8 network of at least {before - tolerance:.2f} %, "
            f"{tolerance:g} below float32",
            got=f"{after:.2f} %",
            remedy="nothing was written; give --precision fp16 in place of --quantize, or a higher "
            "--tolerance",
        )


@dataclass(frozen=True)
class BatchLatency:
    """Time of one forward pass of `batch_size` images on the CPU, by network."""

    batch_size: int
    times: dict[str, Measurement]


@torch.inference_mode()
def measure_latency(
    networks: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor
) -> tuple[BatchLatency, ...]:
    """Time networks in turn, on batches of 1 and of 32 images.

    Args:
        networks: functions from images to logits by name.
        images: ``[N, 3, H, W]``; repeated if they are fewer than a batch.

    Returns:
        The times by batch size, without batch sizes that would take too long to measure.
    """
    rows = []
    for batch_size in LATENCY_BATCH_SIZES:
        batch = images[torch.arange(batch_size) % len(images)]
        cases = [Case(name, partial(network, batch)) for name, network in networks.items()]
        once = sum(tried.median for tried in interleave(cases, rounds=1))
        rounds = min(ROUNDS, int(SECONDS / once))
        if rounds >= MIN_ROUNDS:
            measured = interleave(cases, rounds)
            rows.append(BatchLatency(batch_size, dict(zip(networks, measured, strict=True))))
    return tuple(rows)
