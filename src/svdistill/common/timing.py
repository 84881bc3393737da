"""Times several callables side by side, so that a machine's moods fall on all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from svdistill.common.errors import require_count


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads for the block; None leaves it as it is."""
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
    """Something to time: what it is called, and a call, or several in a row timed as one.

    Of a case of several calls the mean is kept: it is for calls that are not all alike.
    """

    name: str
    run: Callable[[], object]
    calls: int = 1


@dataclass(frozen=True)
class Measurement:
    """Seconds for one call: the median, both quartiles, and all of them, one a round."""

    median: float
    lower_quartile: float
    upper_quartile: float
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum the rounds up.

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
        """Divide by another, round by round: what slows both down leaves the ratios alone.

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
    """Time all cases once a round, one after the other, for so many rounds.

    Args:
        cases: what to time.
        rounds: how often, at least 1.
        warm_up: rounds before that are not counted, of one call for each case.
        device: where the work runs; on CUDA its end is waited for before the clock is read.

    Returns:
        One measurement for each case, in their order. Python's garbage collector runs between
        rounds, never inside one.

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
    device = torch.device(device)
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(warm_up):
        for case in cases:
            case.run()
    with _collector_off():
        for _ in range(rounds):
            gc.collect()
            for case, times in zip(cases, seconds, strict=True):
                times.append(_time(case, device))
    return [Measurement.of(times) for times in seconds]


def duration(seconds: float) -> str:
    """A time as a person says it.

    Example:
        >>> [duration(time) for time in (12.3, 125, 7380)]
        ['12 s', '2 min', '2 h 3 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _time(case: Case, device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(case.calls):
        case.run()
    _synchronise(device)
    return (time.perf_counter() - start) / case.calls


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the collector out of the rounds, and from going through old objects between them."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
