"""How long training waits for its images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

import torch

from svdistill.data import Batch, ImageSplit

# Of an epoch's training time. Above it, whoever trains is told.
MUCH: Final = 0.3


class Clock(Protocol):
    """Marks moments, and tells the time between two of them."""

    def mark(self) -> Any:
        """The present moment."""

    def seconds(self, before: Any, after: Any) -> float:
        """The time from one moment to the other."""


class HostClock:
    """The time of a host that computes by itself."""

    def mark(self) -> float:
        """The present moment."""
        return time.perf_counter()

    def seconds(self, before: float, after: float) -> float:
        """The time from one moment to the other."""
        return after - before


class CUDAClock:
    """The time of a GPU.

    A host that works ahead may wait for images while the GPU still computes, and nothing is lost.
    The GPU's own moments tell how long it had nothing to do.
    """

    def mark(self) -> torch.cuda.Event:
        """The moment when the GPU is through with what it has been given so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        """The time from one moment to the other; waits for the latter."""
        after.synchronize()
        return before.elapsed_time(after) / 1000


class LoadingTime:
    """Adds up the time between wanting a batch and having it.

    Args:
        clock: of the device that computes.

    Example:
        >>> loading = LoadingTime(HostClock())
        >>> len(list(loading.watch(iter([None, None]))))
        2
        >>> 0 < loading.seconds() < 1
        True
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waits: list[tuple[Any, Any]] = []
        self.before = 0.0  # seconds, in an earlier process

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches."""
        while True:
            wanted = self.clock.mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waits.append((wanted, self.clock.mark()))
            yield batch

    def seconds(self) -> float:
        """The sum so far. To read it is to wait for the device."""
        return self.before + sum(self.clock.seconds(*wait) for wait in self.waits)


def loading_time(device: torch.device) -> LoadingTime:
    """Nothing waited for yet, on this device."""
    return LoadingTime(CUDAClock() if device.type == "cuda" else HostClock())


def loading_advice(loading: float, training: float, images: ImageSplit) -> str | None:
    """What to say to somebody whose training waits for its images, if it does.

    Args:
        loading: seconds that an epoch has waited for images.
        training: seconds that it took, without evaluation.
        images: the split that was trained on.
    """
    if loading <= MUCH * training:
        return None
    share = 100 * loading / training
    return f"{share:.0f} % of the time training waits for images; {images.loading_remedy}"
