"""One run by epoch: accuracies, the losses of the task, and the transfer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from svdistill.report.bands import Band
from svdistill.report.figure import (
    BLACK,
    BLUE,
    GREEN,
    PURPLE,
    VERMILION,
    Figure,
    LineStyle,
    draw_band,
    new_drawing,
    plain,
    to_svg,
)
from svdistill.report.runs import Run
from svdistill.training.epoch_record import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Quantity = Callable[[EpochRecord], float | None]

FAR: Final = 10  # a loss that falls by more is drawn on a logarithmic scale
TEST: Final = LineStyle(BLUE, "o", "-")
TRAINING: Final = LineStyle(VERMILION, "s", "--")
HELD_OUT: Final = LineStyle(GREEN, "^", "-")
TRANSFER: Final = LineStyle(PURPLE, "D", "-")
ACCURACIES: Final[dict[str, tuple[Quantity, LineStyle]]] = {
    "test": (lambda record: record.test_accuracy, TEST),
    "training": (lambda record: record.train_accuracy, TRAINING),
    "held out": (lambda record: record.dev_accuracy, HELD_OUT),
}
LOSSES: Final[dict[str, tuple[Quantity, LineStyle]]] = {
    "test": (lambda record: record.test_loss, TEST),
    "training": (lambda record: record.task_loss, TRAINING),
}
# After a first stage of transfer alone it is another loss, if any: the soft target beside the task.
TRANSFERS: Final[dict[str, tuple[Quantity, LineStyle]]] = {
    "transfer": (lambda record: None if record.stage == "task" else record.transfer_loss, TRANSFER),
}


def run_curves(run: Run) -> Figure:
    """Draw a run's accuracies and losses by epoch, with its teacher's accuracy as a level.

    Args:
        run: of any kind.

    Returns:
        The figure.
    """
    panels = {"accuracy, %": ACCURACIES, "cross-entropy": LOSSES}
    if run.is_distilled:
        panels["transfer loss"] = TRANSFERS
    drawing = new_drawing(10, 3.9)
    for axes, (label, quantities) in zip(
        drawing.subplots(1, len(panels)), panels.items(), strict=True
    ):
        plain(axes)
        for name, (quantity, style) in quantities.items():
            _draw(axes, run, quantity, style, name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    accuracies, *_, last = drawing.axes
    teacher = run.summary.teacher_accuracy
    if teacher is not None:
        accuracies.axhline(
            teacher, color=BLACK, linewidth=1.2, dashes=(8, 3), label=f"teacher: {teacher:.1f} %"
        )
    if "transfer loss" in panels:
        _scale_by_size(last)
    handles, labels = accuracies.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    ends = "; ".join(
        f"{label} {name} {value:.2f}"
        for label, quantities in panels.items()
        for name, (quantity, _) in quantities.items()
        if (value := quantity(run.records[-1])) is not None
    )
    alt = f"Accuracies and losses of {run.pair} by epoch. In the last one: {ends}."
    return Figure(
        title=f"{run.pair}: accuracies and losses by epoch",
        caption="Test figures are of whole images after the epoch, training figures of augmented "
        "ones during it, while the network still changed.",
        alt=alt,
        svg=to_svg(drawing, "run", alt),
    )


def _draw(axes: Axes, run: Run, quantity: Quantity, style: LineStyle, name: str) -> None:
    points = [(record.epoch + 1, quantity(record)) for record in run.records]
    known = [(epoch, value) for epoch, value in points if value is not None]
    if known:
        epochs, values = zip(*known, strict=True)
        draw_band(axes, epochs, Band(values, values, values), style, name)


def _scale_by_size(axes: Axes) -> None:
    """A logarithmic scale where a loss fell far."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.dataLim.intervaly
    if low > 0 and high > FAR * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
