"""How long an exported network takes, beside the one it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from svdistill.timing import Case, Measurement, interleave

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
