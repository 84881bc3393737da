"""Show the progress of a run as a bar or lines, and advise on slow image loading."""

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

    On a GPU the sum is the time that the GPU was idle. The host's waiting time would be too long:
    the GPU may still be computing queued work meanwhile.

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
        """Yield the batches unchanged, and time how long each of them takes to arrive."""
        while True:
            wanted = self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waits.append((wanted, self._mark()))
            yield batch

    def seconds(self) -> float:
        """The seconds waited so far; reading them synchronises with the device."""
        if not self.on_gpu:
            return self.before + sum(after - before for before, after in self.waits)
        if self.waits:
            self.waits[-1][1].synchronize()
        waits = (before.elapsed_time(after) for before, after in self.waits)
        return self.before + sum(waits) / 1000

    def _mark(self) -> Any:
        """Mark the present time; on a GPU, the time at which it finishes its queued work."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def loading_advice(loading: float, training: float, images: ImageSplit) -> str | None:
    """Return advice if an epoch waited long for images, else None; both times in seconds."""
    if loading <= SLOW_LOADING * training:
        return None
    share = 100 * loading / training
    return f"{share:.0f} % of the time training waits for images; {images.loading_remedy}"


READING_SECONDS: Final = 0.25  # minimum between two readings of the meter

LOG_SECONDS: Final = 60.0  # minimum between two lines if there is no terminal

# The first steps warm up and are not timed; the next ones are timed to estimate the run's time.
FIRST_STEPS: Final = 2
TIMED_STEPS: Final = 8


class Reporter:
    """Base class of reporters of progress; shows nothing itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing progress."""

    def message(self, text: str) -> None:
        """Show a line of text."""

    def reading(self, number: int, total: int) -> None:
        """Called when the `number`-th of `total` images has been decoded."""

    def start(self, name: str, total_steps: int, done_steps: int, evaluations: float = 0.0) -> None:
        """Called when a run starts or resumes.

        Args:
            name: the run's name.
            total_steps: number of steps of the whole run.
            done_steps: number of steps done before the run was resumed.
            evaluations: time of the evaluations to come, in units of a step's time.
        """

    def step(self, meter: EpochMeter) -> None:
        """Called after each step. Reading the epoch's meter synchronises with the device."""

    def advance(self, images: int) -> None:
        """Called when the teacher's knowledge of that many more images has been computed."""

    def epoch(self, record: EpochRecord) -> None:
        """Called after each epoch."""


class BarReporter(Reporter):
    """Shows a bar with loss, accuracy and time left, and a line for each epoch.

    If the console is not a terminal, it prints a line every minute instead of the bar.
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
        """Advance a bar of decoded images, or print a line every minute without a terminal."""
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
        """Print a line if there is no bar and the last line is at least `LOG_SECONDS` old."""
        if not self.console.is_terminal and now >= self.next_line:
            self.next_line = now + LOG_SECONDS
            self.message(line)

    def start(self, name: str, total_steps: int, done_steps: int, evaluations: float = 0.0) -> None:
        """Show a new bar for the steps of the run."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            name, total=total_steps, completed=done_steps, state="starting"
        )
        self.steps, self.steps_left = 0, total_steps - done_steps
        self.evaluations, self.next_line = evaluations, time.monotonic() + LOG_SECONDS

    def step(self, meter: EpochMeter) -> None:
        """Advance the bar, and update loss and accuracy at most every `READING_SECONDS`."""
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
        """Count the step; after the first few, show once how long the run will take."""
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
        """Advance the bar by a number of images."""
        if self.task is not None:
            self.bar.update(self.task, advance=images, state="images")

    def epoch(self, record: EpochRecord) -> None:
        """Print a line with the epoch's losses, accuracies and speed."""
        self.next_line = time.monotonic() + LOG_SECONDS
        self.evaluations = 0.0  # from now on the mean time of a step includes evaluations
        transfer = "" if record.transfer_loss is None else f"  transfer {record.transfer_loss:.4g}"
        dev = "" if record.dev_accuracy is None else f"  dev {record.dev_accuracy:.2f} %"
        skipped = f"  {record.skipped_steps} steps skipped" if record.skipped_steps else ""
        self.message(
            f"{record.stage} epoch {record.epoch + 1:>3}  lr {record.learning_rate:.2g}  "
            f"loss {record.task_loss:.4f}{transfer}  train {record.train_accuracy:.2f} %{dev}  "
            f"test {record.test_accuracy:.2f} %  {record.images_per_second:.0f} images/s{skipped}"
        )
