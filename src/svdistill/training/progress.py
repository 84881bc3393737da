"""Progress of a run: a bar, lines, and advice on slow loading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Self

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

# Share of training time spent waiting for images, above which advice is shown.
SLOW_LOADING: Final = 0.3


class LoadingTime:
    """Sums the time between the request of a batch and its arrival.

    On a GPU it is the time that the GPU was idle: the host queues work ahead, so that the GPU may
    still compute while the host waits for images.

    Example:
        >>> loading = LoadingTime(torch.device("cpu"))
        >>> len(list(loading.watch(iter([None, None]))))
        2
        >>> 0 < loading.seconds() < 1
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.waits: list[tuple[Any, Any]] = []
        self.before = 0.0  # seconds before a resumption

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches."""
        while True:
            wanted = self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waits.append((wanted, self._mark()))
            yield batch

    def seconds(self) -> float:
        """The sum so far; synchronises with the device."""
        if not self.on_gpu:
            return self.before + sum(after - before for before, after in self.waits)
        if self.waits:
            self.waits[-1][1].synchronize()
        waits = (before.elapsed_time(after) for before, after in self.waits)
        return self.before + sum(waits) / 1000

    def _mark(self) -> Any:
        """The present moment; of a GPU, when it has finished all queued work."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def loading_advice(loading: float, training: float, images: ImageSplit) -> str | None:
    """Advice on faster loading, if an epoch waited long for its images; both times in seconds."""
    if loading <= SLOW_LOADING * training:
        return None
    share = 100 * loading / training
    return f"{share:.0f} % of the time training waits for images; {images.loading_remedy}"


READING_SECONDS: Final = 0.25  # between two readings of the meter

LOG_SECONDS: Final = 60.0  # between two lines where there is no terminal for a bar

# Steps that warm up and are not timed, then those that are timed for an estimate.
FIRST_STEPS: Final = 2
TIMED_STEPS: Final = 8


class Reporter:
    """Shows nothing; base of reporters."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing progress."""

    def message(self, text: str) -> None:
        """Show a line."""

    def reading(self, number: int, total: int) -> None:
        """The `number`-th of `total` images is decoded."""

    def start(self, name: str, total_steps: int, done_steps: int, evaluations: float = 0.0) -> None:
        """A run starts, or continues after `done_steps`; `evaluations` is their cost in steps."""

    def step(self, meter: EpochMeter) -> None:
        """A step is done. Reading the epoch's meter synchronises with the device."""

    def advance(self, images: int) -> None:
        """The knowledge of more images is computed."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""


class BarReporter(Reporter):
    """A bar with loss, accuracy and time left, and a line for each epoch.

    Where the console is no terminal, a line a minute takes the place of the bar.
    """

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
        self.next_line = 0.0
        self.steps = 0
        self.steps_left = 0
        self.evaluations = 0.0
        self.timed_from = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def reading(self, number: int, total: int) -> None:
        """Advance a bar of the images, or print a line now and then."""
        now = time.monotonic()
        if number == 1:
            self.task = self.bar.add_task("reading images", total=total, state="")
            self.timed_from, self.next_line = now, now + LOG_SECONDS
        if self.task is None:
            return
        if number == total:
            self.bar.remove_task(self.task)
            self.task = None
        elif now >= self.next_reading:
            self.next_reading = now + READING_SECONDS
            self.bar.update(self.task, completed=number)
            left = (now - self.timed_from) / number * (total - number)
            self._log(now, f"{number:,} of {total:,} images read, about {duration(left)} left")

    def _log(self, now: float, line: str) -> None:
        """Print a line if there is no bar, and the last one is some time ago."""
        if not self.console.is_terminal and now >= self.next_line:
            self.next_line = now + LOG_SECONDS
            self.message(line)

    def start(self, name: str, total_steps: int, done_steps: int, evaluations: float = 0.0) -> None:
        """Show a bar for the run."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            name, total=total_steps, completed=done_steps, state="starting"
        )
        self.steps, self.steps_left = 0, total_steps - done_steps
        self.evaluations, self.next_line = evaluations, time.monotonic() + LOG_SECONDS

    def step(self, meter: EpochMeter) -> None:
        """Advance the bar, and now and then show loss and accuracy."""
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
        if self.steps > FIRST_STEPS:
            seconds = (now - self.timed_from) / (self.steps - FIRST_STEPS)
            left = seconds * (self.steps_left - self.steps + self.evaluations)
            done = self.bar.tasks[-1]
            self._log(
                now,
                f"step {done.completed:,.0f} of {done.total:,.0f}  {state}  about "
                f"{duration(left)} left",
            )

    def _expect(self, now: float) -> None:
        """Show once how long the run will take."""
        self.steps += 1
        if self.steps == FIRST_STEPS:
            self.timed_from = now
        elif self.steps == FIRST_STEPS + TIMED_STEPS:
            seconds = (now - self.timed_from) / TIMED_STEPS
            self.message(
                f"{self.steps_left:,} steps of {seconds:.2g} s, and evaluations: about "
                f"{duration(seconds * (self.steps_left + self.evaluations))}"
            )

    def advance(self, images: int) -> None:
        """Advance the bar."""
        if self.task is not None:
            self.bar.update(self.task, advance=images, state="images")

    def epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line."""
        self.next_line = time.monotonic() + LOG_SECONDS
        self.evaluations = 0.0  # from now on they are in the time that a step took
        transfer = "" if record.transfer_loss is None else f"  transfer {record.transfer_loss:.4g}"
        dev = "" if record.dev_accuracy is None else f"  dev {record.dev_accuracy:.2f} %"
        skipped = f"  {record.skipped_steps} steps skipped" if record.skipped_steps else ""
        self.message(
            f"{record.stage} epoch {record.epoch + 1:>3}  lr {record.learning_rate:.2g}  "
            f"loss {record.task_loss:.4f}{transfer}  train {record.train_accuracy:.2f} %{dev}  "
            f"test {record.test_accuracy:.2f} %  {record.images_per_second:.0f} images/s{skipped}"
        )
