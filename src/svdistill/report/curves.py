"""Figures of accuracies, losses and gradient norms by epoch, and of gains by number of vectors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from svdistill.common import Cell, Table, columns, number_cell, write_atomically
from svdistill.report.comparison import PairComparison
from svdistill.report.figure import (
    BLACK,
    BLUE,
    GREEN,
    LINE_STYLES,
    PURPLE,
    VERMILION,
    Figure,
    LineStyle,
    Section,
    draw_band,
    draw_level,
    epoch_axis,
    legend,
    log_axis,
    new_drawing,
    plain,
    styled,
    to_svg,
)
from svdistill.report.methods import MethodResult
from svdistill.report.protocol import VECTORS
from svdistill.report.runs import Run, row_name
from svdistill.runs import EpochRecord, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Quantity = Callable[[EpochRecord], float | None]

Curves = dict[str, tuple[Quantity, LineStyle]]

LOG_SCALE_FROM: Final = 10  # ratio of highest to lowest value above which a panel is logarithmic

PAPER_DASHES: Final = ("--", ":", "-.", "-")

ACCURACIES: Final[Curves] = {
    "test": (lambda record: record.test_accuracy, LineStyle(BLUE, "o", "-")),
    "training": (lambda record: record.train_accuracy, LineStyle(VERMILION, "s", "--")),
    "held out": (lambda record: record.dev_accuracy, LineStyle(GREEN, "^", "-")),
}

LOSSES: Final[Curves] = {
    "test": (lambda record: record.test_loss, ACCURACIES["test"][1]),
    "training": (lambda record: record.task_loss, ACCURACIES["training"][1]),
}

# Epochs of a second stage, which trains by the task alone, are left out: they do not record the
# same transfer loss.
TRANSFERS: Final[Curves] = {
    "transfer": (
        lambda record: None if record.stage == "task" else record.transfer_loss,
        LineStyle(PURPLE, "D", "-"),
    ),
}

NORMS: Final[Curves] = {
    "task": (lambda record: record.task_norm, LineStyle(BLACK, "x", ":")),
    # The dashed line is drawn last, so that both lines are visible where they coincide because
    # nothing was clipped.
    "transfer, clipped": (lambda record: record.clipped_norm, LineStyle(BLUE, "o", "-")),
    "transfer, before clipping": (
        lambda record: record.transfer_norm,
        LineStyle(VERMILION, "s", "--"),
    ),
}

# Columns of the gradient table with shares of singular value decompositions, see `EpochRecord`.
SHARES: Final[dict[str, Quantity]] = {
    "SVDs damped %": lambda record: record.svd_close,
    "SVDs missed %": lambda record: record.svd_missed,
}


def plot_curves(runs: Iterable[tuple[str, str | Path]], output: str | Path, title: str) -> None:
    """Draw test accuracy by epoch, with one line for each method, and write it as PNG or SVG.

    Args:
        runs: pairs of a method's name and a run directory. Runs with the same name are repetitions
            with other seeds: the line is their mean, the band reaches from the lowest to the
            highest.
        output: the file to write; its suffix chooses the format.
        title: the title above the picture.

    Raises:
        RunError: a run has no metrics, or the file cannot be written.
    """
    curves: dict[str, list[list[float]]] = {}
    for method, directory in runs:
        accuracies = [record.test_accuracy for record in read_records(directory)]
        curves.setdefault(method, []).append(accuracies)
    drawing = new_drawing(10, 4.5)
    axes = drawing.subplots()
    plain(axes)
    styles = styled(curves)
    for method, seeds in curves.items():
        points = list(zip(*seeds, strict=False))  # up to the last epoch of the shortest run
        label = f"{method} ({statistics.fmean(points[-1]):.1f})"
        draw_band(axes, range(1, len(points) + 1), points, styles[method], label)
    axes.set(title=title, ylabel="test accuracy, %")
    epoch_axis(axes)
    drawing.legend(loc="outside right upper", handlelength=2.6, frameon=False)
    path = Path(output)
    kind = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: drawing.savefig(temporary, dpi=120, format=kind))


def curves_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """For each pair, figures of test accuracy by epoch, or all curves of a pair's only run."""
    sections = []
    for pair in pairs:
        figures = [accuracy_curves(rows) for rows in _rows_of_figures(pair)]
        if len(pair.runs) == 1:
            figures = [run_curves(pair.runs[0])]
        sections.append(Section(pair.title, figures=tuple(figures)))
    return sections


def _rows_of_figures(pair: PairComparison) -> list[list[MethodResult]]:
    """The rows of each figure: all teachers and students alone, and up to eight distilled rows.

    Distilled rows are distributed over the figures by accuracy, the best first.
    """
    shared = [method for method in pair.methods if not method.is_distilled]
    distilled = sorted(pair.distilled, key=_accuracy, reverse=True)
    starts = range(0, max(len(distilled), 1), len(LINE_STYLES))
    return [[*shared, *distilled[start : start + len(LINE_STYLES)]] for start in starts]


def accuracy_curves(methods: Sequence[MethodResult]) -> Figure:
    """Draw the test accuracy by epoch of some rows of one pair of networks."""
    students = [method for method in methods if not method.is_teacher]
    lines = students or methods
    levels = _teacher_levels(methods) if students else {}
    drawing = new_drawing(10, 4.6 + 0.2 * ((len(methods) + 1) // 2))
    axes = drawing.subplots()
    plain(axes)
    styles = styled(method.name for method in lines)
    ranked = sorted(lines, key=_accuracy, reverse=True)
    for method in ranked:
        of_runs = ([record.test_accuracy for record in run.records] for run in method.runs)
        points = list(zip(*of_runs, strict=False))
        label = f"{method.name}: {method.accuracy:.1f}"
        draw_band(axes, range(1, len(points) + 1), points, styles[method.name], label)
    for place, (name, accuracy) in enumerate(levels.items()):
        draw_level(axes, accuracy, f"{name}, last epoch: {accuracy:.1f}", place)
    axes.set_ylabel("test accuracy, %")
    epoch_axis(axes)
    legend(drawing, [axes], columns=2)
    pair = lines[0].runs[0].pair
    accuracies = levels | {row.name: row.accuracy for row in ranked}
    ends = ", ".join(f"{name} {accuracy:.1f}" for name, accuracy in accuracies.items())
    several = any(len(row.runs) > 1 for row in lines)
    seeds = (
        "Each line is the mean over a row's seeds; its band reaches from the lowest seed to the "
        "highest. "
    )
    alt = f"Lines of test accuracy by epoch, {pair}. After the last epoch, in percent: {ends}."
    return Figure(
        title=f"{pair}: test accuracy by epoch",
        caption=(seeds if several else "")
        + "The legend gives the accuracy after the last epoch, the best row first.",
        svg=to_svg(drawing, alt),
    )


def _teacher_levels(methods: Sequence[MethodResult]) -> dict[str, float]:
    """The accuracies of the teachers' rows by name, to be drawn as horizontal lines.

    Without such rows, the accuracy that the distilled runs measured of their teacher, if all agree.
    """
    teachers = {method.name: method.accuracy for method in methods if method.is_teacher}
    measured = {
        run.summary.teacher_accuracy
        for method in methods
        if method.is_distilled
        for run in method.runs
    }
    only = measured.pop() if len(measured) == 1 else None
    return teachers or ({} if only is None else {"teacher": only})


def _accuracy(method: MethodResult) -> float:
    return method.accuracy


def run_curves(run: Run) -> Figure:
    """Draw a run's accuracies, losses and gradient norms by epoch, and its teacher's accuracy."""
    panels = {"accuracy, %": ACCURACIES, "cross-entropy": LOSSES}
    panels |= {"transfer loss": TRANSFERS, "gradient norm": NORMS} if run.is_distilled else {}
    drawing = new_drawing(10, 3.2 * ((len(panels) + 1) // 2) + 0.4)
    grid = drawing.subplots(len(panels) // 2, 2, squeeze=False).flat
    for axes, (label, curves) in zip(grid, panels.items(), strict=True):
        plain(axes)
        for name, (quantity, style) in curves.items():
            _draw_run(axes, run, quantity, style, name)
        axes.set_ylabel(label)
        epoch_axis(axes)
        low, high = axes.dataLim.intervaly
        if label != "accuracy, %" and low > 0 and high > LOG_SCALE_FROM * low:
            log_axis(axes)
        if curves is NORMS and axes.lines:
            axes.legend(frameon=False, handlelength=2.6)
    teacher = run.summary.teacher_accuracy
    if teacher is not None:
        draw_level(drawing.axes[0], teacher, f"teacher: {teacher:.1f} %")
    legend(drawing, drawing.axes[:1], columns=4)
    ends = "; ".join(
        f"{label} {name} {value:.2f}"
        for label, curves in panels.items()
        for name, (quantity, _) in curves.items()
        if (value := quantity(run.records[-1])) is not None
    )
    alt = f"Accuracies and losses of {run.pair} by epoch. In the last one: {ends}."
    return Figure(
        title=f"{run.pair}: accuracies and losses by epoch",
        caption="Test values are measured on whole images after the epoch, training values on "
        "augmented images during it, while the network still changed.",
        svg=to_svg(drawing, alt),
    )


def _draw_run(axes: Axes, run: Run, quantity: Quantity, style: LineStyle, name: str) -> None:
    points = [(record.epoch + 1, quantity(record)) for record in run.records]
    known = [(epoch, [value]) for epoch, value in points if value is not None]
    if known:
        epochs, values = zip(*known, strict=True)
        draw_band(axes, epochs, values, style, name)


def gradients_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """For each pair, a table of its distilled rows' gradient norms and shares of SVDs."""
    tables = [(pair, gradient_table(pair)) for pair in pairs]
    return [Section(pair.title, (table,)) for pair, table in tables if table is not None]


def gradient_table(pair: PairComparison) -> Table | None:
    """A table row for each method that recorded its gradient norms; None if no method did."""
    methods = [row for row in pair.distilled if _mean(row, NORMS["task"][0]) is not None]
    if not methods:
        return None
    cells = {
        name: [number_cell(_mean(row, norm), "{:.3g}") for row in methods]
        for name, (norm, _) in NORMS.items()
    }
    for name, share in SHARES.items():
        parts = [_mean(row, share) for row in methods]
        if any(parts):
            cells[name] = [number_cell(None if part is None else 100 * part) for part in parts]
    notes = [
        "Norms over all parameters, means over all steps and seeds. Steps that do not measure them "
        "count with the norms last measured."
    ]
    if len(cells) > len(NORMS):
        notes.append(
            "Damped: the SVDs in which leading values lie so close to each other, or to zero, that "
            "the gradient is damped. Missed: those that subspace iteration left above its bound."
        )
    return Table(
        title=pair.title,
        caption="Gradient norms of task and transfer",
        columns=columns("method", *cells),
        rows=tuple(zip([Cell(row.name) for row in methods], *cells.values(), strict=True)),
        notes=tuple(notes),
    )


def _mean(method: MethodResult, quantity: Quantity) -> float | None:
    """The mean of a quantity over all epochs of all runs that recorded it; None if none did."""
    values = [quantity(record) for run in method.runs for record in run.records]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def vectors_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """For each data set, one figure of the gain by the number of singular vectors of all pairs."""
    by_data: dict[str, list[PairComparison]] = {}
    for pair in pairs:
        by_data.setdefault(pair.data, []).append(pair)
    figures = {data: number_of_vectors(some) for data, some in by_data.items()}
    return [Section(data, figures=(figure,)) for data, figure in figures.items() if figure]


def number_of_vectors(pairs: Sequence[PairComparison]) -> Figure | None:
    """Draw the gain by the number of singular vectors, beside the gain in the paper's figure.

    Returns None unless a method was trained with two or more numbers of vectors, and the student
    alone was trained as well.
    """
    curves = {
        f"{pair.pair}, {row}": methods
        for pair in pairs
        for row, methods in _by_vectors(pair).items()
    }
    if not curves:
        return None
    names = dict.fromkeys(methods[0].runs[0].pair for methods in curves.values())
    published = {name: VECTORS[name] for name in names if name in VECTORS}
    ours = {_vectors(method) for methods in curves.values() for method in methods}
    counts = sorted(ours.union(*published.values()) - {0})
    drawing = new_drawing(10, 3.8 + 0.2 * ((len(curves) + len(published) + 1) // 2))
    axes = drawing.subplots()
    plain(axes)
    said = []
    for (name, methods), style in zip(curves.items(), styled(curves).values(), strict=True):
        places = [counts.index(_vectors(method)) for method in methods]
        draw_band(axes, places, [method.gains for method in methods], style, name)
        means = (f"k = {_vectors(one)} {statistics.fmean(one.gains):+.1f}" for one in methods)
        said.append(f"{name}: {', '.join(means)}")
    for (name, accuracies), dashes in zip(published.items(), PAPER_DASHES, strict=False):
        gains = {k: [one - accuracies[0]] for k, one in accuracies.items() if k}
        places = [counts.index(count) for count in gains]
        style = LineStyle(BLACK, "x", dashes)
        draw_band(axes, places, list(gains.values()), style, f"{name}, the paper's")
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="number of vectors k", ylabel="gain over the student alone, points")
    legend(drawing, [axes], columns=2)
    beside = " The paper's gains are for all of CIFAR-100 in full width." if published else ""
    return Figure(
        title=f"Number of singular vectors, {' and '.join(names)}",
        caption="Gain over the student alone of the same seed: mean over the seeds, the band from "
        f"the lowest to the highest.{beside}",
        svg=to_svg(drawing, f"Gain against the number of vectors, in points. {'; '.join(said)}."),
    )


def _by_vectors(pair: PairComparison) -> dict[str, list[MethodResult]]:
    """Group rows that differ only in their number of singular vectors; single rows are left out."""
    rows: dict[tuple[object, ...], list[MethodResult]] = {}
    for method in pair.distilled:
        if method.gains and method.config.get("num_vectors") is not None:
            usual = row_name({**method.config, "num_vectors": None})
            name = ", ".join(filter(None, [usual, method.taught]))
            rows.setdefault((name, method.loss, *method.training), []).append(method)
    return {
        str(name): sorted(methods, key=_vectors)
        for (name, *_), methods in rows.items()
        if len(methods) > 1
    }


def _vectors(method: MethodResult) -> int:
    return int(method.config["num_vectors"])
