"""What a person sees of a run while it goes on."""

from __future__ import annotations

from types import TracebackType
from typing import Self

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

from svdistill.training.metrics import EpochRecord


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

    def step(self, loss: float, accuracy: float) -> None:
        """One step is done; loss and accuracy are means over the epoch so far."""

    def advance(self, images: int) -> None:
        """The knowledge of so many more images is computed."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""


class BarReporter(Reporter):
    """A bar with loss, accuracy and time left, and a line for each epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task: TaskID | None = None

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
        self.console.print(text, highlight=False, soft_wrap=True)

    def start(self, name: str, total_steps: int, done_steps: int) -> None:
        """Show a bar for the run."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            name, total=total_steps, completed=done_steps, state="starting"
        )

    def step(self, loss: float, accuracy: float) -> None:
        """Move the bar."""
        if self.task is not None:
            state = f"loss {loss:.3f}  accuracy {accuracy:.1f} %"
            self.bar.update(self.task, advance=1, state=state)

    def advance(self, images: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.bar.update(self.task, advance=images, state="images")

    def epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line."""
        transfer = "" if record.transfer_loss is None else f"  transfer {record.transfer_loss:.4g}"
        dev = "" if record.dev_accuracy is None else f"  dev {record.dev_accuracy:.2f} %"
        self.message(
            f"{record.stage} epoch {record.epoch + 1:>3}  lr {record.learning_rate:.2g}  "
            f"loss {record.task_loss:.4f}{transfer}  train {record.train_accuracy:.2f} %{dev}  "
            f"test {record.test_accuracy:.2f} %  {record.images_per_second:.0f} images/s"
        )
