"""Curves over epochs: of one run, of methods, of several runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from svdistill.common import write_atomically
from svdistill.report.comparison import MethodRuns, compare
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
    styled,
    to_svg,
)
from svdistill.report.runs import Run
from svdistill.report.statistics import Band, band_of
from svdistill.runs import EpochRecord, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_curves(runs: Iterable[tuple[str, str | Path]], output: str | Path, title: str) -> None:
    """Draw test accuracy by epoch, a line for each method, into a PNG or SVG.

    Args:
        runs: pairs of a method's name and a run directory. Several of one name are its seeds: the
            line is their mean, the band reaches from the lowest to the highest.
        output: the picture's file; its ending chooses the format.
        title: above the picture.

    Raises:
        RunError: a run without metrics, or a file that cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves: dict[str, list[list[float]]] = {}
    for method, directory in runs:
        accuracies = [record.test_accuracy for record in read_records(directory)]
        curves.setdefault(method, []).append(accuracies)
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    for method, seeds in curves.items():
        band = band_of(seeds)
        epochs = range(1, len(band.mean) + 1)
        (line,) = axes.plot(epochs, band.mean, marker=".", label=f"{method} ({band.mean[-1]:.1f})")
        if len(seeds) > 1:
            axes.fill_between(
                epochs, band.lowest, band.highest, color=line.get_color(), alpha=0.15, linewidth=0
            )
    axes.set(title=title, xlabel="epoch", ylabel="test accuracy %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    path = Path(output)
    kind = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format=kind))
    plt.close(figure)


def accuracy_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw test accuracy by epoch.

    Args:
        runs: of one pair of networks; at most 8 rows stay readable.

    Returns:
        The figure; None without runs.
    """
    methods = [method for comparison in compare(runs) for method in comparison.methods]
    students = [method for method in methods if not method.is_teacher]
    if not methods:
        return None
    lines = students or methods
    levels = _levels(methods) if students else {}
    drawing = new_drawing(10, 4.6 + 0.2 * ((len(methods) + 1) // 2))
    axes = drawing.subplots()
    plain(axes)
    styles = styled(method.name for method in lines)
    ranked = sorted(lines, key=_accuracy, reverse=True)
    for method in ranked:
        band = band_of([[record.test_accuracy for record in run.records] for run in method.runs])
        label = f"{method.name}: {_accuracy(method):.1f}"
        draw_band(axes, range(1, len(band.mean) + 1), band, styles[method.name], label)
    for name, accuracy in levels.items():
        label = f"{name}, last epoch: {accuracy:.1f}"
        axes.axhline(accuracy, color=BLACK, linewidth=1.2, dashes=(8, 3), label=label)
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    pairs = " and ".join(dict.fromkeys(method.runs[0].pair for method in lines))
    accuracies = levels | {row.name: _accuracy(row) for row in ranked}
    ends = ", ".join(f"{name} {accuracy:.1f}" for name, accuracy in accuracies.items())
    several = any(len(row.runs) > 1 for row in lines)
    seeds = (
        "Each line is the mean over a row's seeds; its band reaches from the lowest seed to the "
        "highest. "
    )
    alt = f"Lines of test accuracy by epoch, {pairs}. After the last epoch, in percent: {ends}."
    return Figure(
        title=f"{pairs}: test accuracy by epoch",
        caption=(seeds if several else "")
        + "The legend gives the accuracy after the last epoch, the best row first.",
        alt=alt,
        svg=to_svg(drawing, "accuracy", alt),
    )


def _levels(methods: Sequence[MethodRuns]) -> dict[str, float]:
    """The teachers' accuracies by their names, or the one that all taught students measured."""
    teachers = {method.name: _accuracy(method) for method in methods if method.is_teacher}
    measured = {
        run.summary.teacher_accuracy
        for method in methods
        if method.is_taught
        for run in method.runs
    }
    only = measured.pop() if len(measured) == 1 else None
    return teachers or ({} if only is None else {"teacher": only})


def _accuracy(method: MethodRuns) -> float:
    """Mean over the seeds, after the last epoch."""
    return statistics.fmean(method.last)


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
