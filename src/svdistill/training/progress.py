"""What a person sees of a run: a progress bar, lines and advice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Protocol, Self

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from svdistill.common import TextConsole, duration, shown
from svdistill.data import Batch, ImageSplit
from svdistill.runs import EpochRecord
from svdistill.training.metrics import EpochMeter

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


READING_SECONDS: Final = 0.25  # from one reading of the meter to the next

# The first steps, which load and warm up, tell nothing of the others; then some that are timed.
FIRST_STEPS: Final = 2

TIMED_STEPS: Final = 8


class Reporter:
    """Says nothing; the base of those that do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def message(self, text: str) -> None:
        """Say something once."""

    def start(self, name: str, total_steps: int, done_steps: int) -> None:
        """A run of so many steps begins, or goes on."""

    def step(self, meter: EpochMeter) -> None:
        """One step is done. To read the meter of the epoch so far is to wait for the device."""

    def advance(self, images: int) -> None:
        """The knowledge of so many more images is computed."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""


class BarReporter(Reporter):
    """A bar with loss, accuracy and time left, and a line for each epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or TextConsole()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.next_reading = 0.0
        self.steps = 0
        self.steps_left = 0
        self.timed_from = 0.0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def start(self, name: str, total_steps: int, done_steps: int) -> None:
        """Show a bar for the run."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            name, total=total_steps, completed=done_steps, state="starting"
        )
        self.steps, self.steps_left = 0, total_steps - done_steps

    def step(self, meter: EpochMeter) -> None:
        """Move the bar, and now and then say how the epoch goes."""
        if self.task is None:
            return
        now = time.monotonic()
        self._expect(now)
        if now < self.next_reading:
            self.bar.advance(self.task)
            return
        self.next_reading = now + READING_SECONDS
        state = f"loss {meter.mean_task_loss():.3f}  accuracy {meter.train_accuracy():.1f} %"
        self.bar.update(self.task, advance=1, state=state)

    def _expect(self, now: float) -> None:
        """Say once how long the run will take."""
        self.steps += 1
        if self.steps == FIRST_STEPS:
            self.timed_from = now
        elif self.steps == FIRST_STEPS + TIMED_STEPS:
            seconds = (now - self.timed_from) / TIMED_STEPS
            self.message(
                f"{self.steps_left:,} steps of {seconds:.2g} s: about "
                f"{duration(seconds * self.steps_left)} of training"
            )

    def advance(self, images: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.bar.update(self.task, advance=images, state="images")

    def epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line."""
        transfer = "" if record.transfer_loss is None else f"  transfer {record.transfer_loss:.4g}"
        dev = "" if record.dev_accuracy is None else f"  dev {record.dev_accuracy:.2f} %"
        skipped = f"  {record.skipped_steps} steps skipped" if record.skipped_steps else ""
        self.message(
            f"{record.stage} epoch {record.epoch + 1:>3}  lr {record.learning_rate:.2g}  "
            f"loss {record.task_loss:.4f}{transfer}  train {record.train_accuracy:.2f} %{dev}  "
            f"test {record.test_accuracy:.2f} %  {record.images_per_second:.0f} images/s{skipped}"
        )
