"""Timing of several callables in turn, so that a change of the machine's speed affects all."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from svdistill.common.errors import require_count

if TYPE_CHECKING:  # the command line imports this room without torch
    import torch


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set torch's number of threads within the block; None changes nothing."""
    import torch

    if count is None:
        yield
        return
    require_count("threads", count)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Case(NamedTuple):
    """A callable to time; each measurement is the mean time of `calls` consecutive calls."""

    name: str
    run: Callable[[], object]
    calls: int = 1


@dataclass(frozen=True)
class Measurement:
    """Seconds per call: the median, both quartiles, and one value per round."""

    median: float
    lower_quartile: float
    upper_quartile: float
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Summarise the rounds.

        Example:
            >>> Measurement.of([1.0, 5.0, 2.0]).median
            2.0
        """
        median = statistics.median(seconds)
        lower, _, upper = (
            statistics.quantiles(seconds, n=4, method="inclusive")
            if len(seconds) > 1
            else (median, median, median)
        )
        return cls(median, lower, upper, tuple(seconds))

    def ratios_to(self, other: Measurement) -> Measurement:
        """Divide by another measurement, round by round; a common slowdown cancels.

        Example:
            >>> twice = Measurement.of([2.0, 20.0, 4.0])
            >>> twice.ratios_to(Measurement.of([1.0, 10.0, 2.0])).median
            2.0
        """
        pairs = zip(self.seconds, other.seconds, strict=True)
        return Measurement.of([mine / theirs for mine, theirs in pairs])


def interleave(
    cases: Sequence[Case], rounds: int, *, warm_up: int = 1, device: torch.device | str = "cpu"
) -> list[Measurement]:
    """Time all cases once per round, one after the other, in an order drawn anew for each round.

    In a fixed order, a case would always be affected by the memory use of the one before it.

    Args:
        cases: what to time.
        rounds: number of rounds, at least 1.
        warm_up: rounds before that do not count, of one call per case.
        device: where the work runs. A CUDA device is synchronised before the clock is read.

    Returns:
        One measurement per case, in their order. Python's garbage collector runs between rounds,
        never inside one.

    Raises:
        ArgumentError: less than one round.

    Example:
        >>> fast, slow = interleave(
        ...     [Case("fast", lambda: None), Case("slow", lambda: time.sleep(0.01))], rounds=3
        ... )
        >>> fast.median < slow.median
        True
    """
    require_count("rounds", rounds)
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(warm_up):
        for case in cases:
            case.run()
    with _collector_off():
        for turn in range(rounds):
            gc.collect()
            order = list(zip(cases, seconds, strict=True))
            random.Random(turn).shuffle(order)
            for case, times in order:
                times.append(_time(case, device))
    return [Measurement.of(times) for times in seconds]


def duration(seconds: float) -> str:
    """Format a time.

    Example:
        >>> [duration(time) for time in (12.3, 125, 7380)]
        ['12 s', '2 min', '2 h 3 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def synchronise(device: torch.device | str) -> None:
    """Wait until a CUDA device has finished its work; other devices have no queue."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _time(case: Case, device: torch.device | str) -> float:
    synchronise(device)
    start = time.perf_counter()
    for _ in range(case.calls):
        case.run()
    synchronise(device)
    return (time.perf_counter() - start) / case.calls


@contextmanager
def _collector_off() -> Iterator[None]:
    """Disable the garbage collector in the block, and call `gc.freeze` before it.

    If objects are frozen already, this is left out: `gc.unfreeze` would unfreeze those too.
    """
    was_on, are_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.collect()
    if not are_frozen:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not are_frozen:
            gc.unfreeze()
        if was_on:
            gc.enable()
