"""Curves by epoch: accuracies, losses, gradient norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Final

from svdistill.common import write_atomically
from svdistill.losses import reads
from svdistill.report.comparison import MethodResult, PairComparison
from svdistill.report.figure import (
    BLACK,
    BLUE,
    GREEN,
    LINE_STYLES,
    PURPLE,
    VERMILION,
    Band,
    Figure,
    LineStyle,
    Section,
    band_of,
    draw_band,
    draw_level,
    epoch_axis,
    legend,
    log_axis,
    new_drawing,
    plain,
    styled,
    to_figure,
)
from svdistill.report.runs import Run
from svdistill.runs import EpochRecord, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Quantity = Callable[[EpochRecord], float | None]

Curves = dict[str, tuple[Quantity, LineStyle]]

LOG_SCALE_FROM: Final = 10  # ratio of a loss's highest to its lowest value

ACCURACIES: Final[Curves] = {
    "test": (lambda record: record.test_accuracy, LineStyle(BLUE, "o", "-")),
    "training": (lambda record: record.train_accuracy, LineStyle(VERMILION, "s", "--")),
    "held out": (lambda record: record.dev_accuracy, LineStyle(GREEN, "^", "-")),
}

LOSSES: Final[Curves] = {
    "test": (lambda record: record.test_loss, ACCURACIES["test"][1]),
    "training": (lambda record: record.task_loss, ACCURACIES["training"][1]),
}

# After a first stage of transfer alone the second stage records another loss, if any.
TRANSFERS: Final[Curves] = {
    "transfer": (
        lambda record: None if record.stage == "task" else record.transfer_loss,
        LineStyle(PURPLE, "D", "-"),
    ),
}

NORMS: Final[Curves] = {
    "task": (lambda record: record.task_norm, LineStyle(BLACK, "x", ":")),
    # The dashed line is drawn last, so that both are visible if nothing was clipped.
    "transfer, clipped": (lambda record: record.clipped_norm, LineStyle(BLUE, "o", "-")),
    "transfer, before clipping": (
        lambda record: record.transfer_norm,
        LineStyle(VERMILION, "s", "--"),
    ),
}

SHARES: Final[dict[str, tuple[Quantity, str]]] = {
    "close": (
        lambda record: record.svd_close,
        "Close: the share of the singular value decompositions in which leading values lie so "
        "close to each other, or to zero, that the gradient is damped",
    ),
    "missed": (
        lambda record: record.svd_missed,
        "Missed: the share that subspace iteration left above its residual bound",
    ),
}

PANELS_ABREAST: Final = 3

GRID_COLUMNS: Final = 6  # divisible into one, two or three panels

TITLE_WIDTH: Final = 36  # characters above one of three panels


def plot_curves(runs: Iterable[tuple[str, str | Path]], output: str | Path, title: str) -> None:
    """Draw test accuracy by epoch, a line for each method, as PNG or SVG.

    Args:
        runs: pairs of a method's name and a run directory. Runs of one name are its seeds: the
            line is their mean, the band reaches from the lowest to the highest.
        output: the file; its suffix chooses the format.
        title: above the picture.

    Raises:
        RunError: a run without metrics, or a file that cannot be written.
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
        band = band_of(seeds)
        label = f"{method} ({band.mean[-1]:.1f})"
        draw_band(axes, range(1, len(band.mean) + 1), band, styles[method], label)
    axes.set(title=title, ylabel="test accuracy, %")
    epoch_axis(axes)
    drawing.legend(loc="outside right upper", handlelength=2.6, frameon=False)
    path = Path(output)
    kind = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: drawing.savefig(temporary, dpi=120, format=kind))


def curves_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """Test accuracy by epoch, the best rows first, several rows in each figure."""
    return [
        Section(pair.title, tuple(accuracy_curves(rows) for rows in _rows_of_figures(pair)))
        for pair in pairs
    ]


def _rows_of_figures(pair: PairComparison) -> list[list[MethodResult]]:
    """The rows of each figure: teachers, students alone, and as many others as there are styles."""
    shared = [method for method in pair.methods if not method.is_distilled]
    distilled = sorted(pair.distilled, key=_accuracy, reverse=True)
    starts = range(0, max(len(distilled), 1), len(LINE_STYLES))
    return [[*shared, *distilled[start : start + len(LINE_STYLES)]] for start in starts]


def accuracy_curves(methods: Sequence[MethodResult]) -> Figure:
    """Draw test accuracy by epoch.

    Args:
        methods: at least one row, of one pair of networks.
    """
    students = [method for method in methods if not method.is_teacher]
    lines = students or methods
    levels = _teacher_levels(methods) if students else {}
    drawing = new_drawing(10, 4.6 + 0.2 * ((len(methods) + 1) // 2))
    axes = drawing.subplots()
    plain(axes)
    styles = styled(method.name for method in lines)
    ranked = sorted(lines, key=_accuracy, reverse=True)
    for method in ranked:
        band = band_of([[record.test_accuracy for record in run.records] for run in method.runs])
        label = f"{method.name}: {method.accuracy:.1f}"
        draw_band(axes, range(1, len(band.mean) + 1), band, styles[method.name], label)
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
    return to_figure(
        drawing,
        "accuracy",
        title=f"{pair}: test accuracy by epoch",
        caption=(seeds if several else "")
        + "The legend gives the accuracy after the last epoch, the best row first.",
        alt=alt,
    )


def _teacher_levels(methods: Sequence[MethodResult]) -> dict[str, float]:
    """The teachers' accuracies by name, or the one that all distilled students measured."""
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
    """Draw a run's accuracies and losses by epoch, with its teacher's accuracy as a level."""
    panels = {"accuracy, %": ACCURACIES, "cross-entropy": LOSSES}
    if run.is_distilled:
        panels["transfer loss"] = TRANSFERS
    drawing = new_drawing(10, 3.9)
    for axes, (label, curves) in zip(drawing.subplots(1, len(panels)), panels.items(), strict=True):
        plain(axes)
        for name, (quantity, style) in curves.items():
            _draw_run(axes, run, quantity, style, name)
        axes.set_ylabel(label)
        epoch_axis(axes)
    accuracies, *_, last = drawing.axes
    teacher = run.summary.teacher_accuracy
    if teacher is not None:
        draw_level(accuracies, teacher, f"teacher: {teacher:.1f} %")
    low, high = last.dataLim.intervaly
    if "transfer loss" in panels and low > 0 and high > LOG_SCALE_FROM * low:
        log_axis(last)
    legend(drawing, [accuracies], columns=4)
    ends = "; ".join(
        f"{label} {name} {value:.2f}"
        for label, curves in panels.items()
        for name, (quantity, _) in curves.items()
        if (value := quantity(run.records[-1])) is not None
    )
    alt = f"Accuracies and losses of {run.pair} by epoch. In the last one: {ends}."
    return to_figure(
        drawing,
        "run",
        title=f"{run.pair}: accuracies and losses by epoch",
        caption="Test values are measured on whole images after the epoch, training values on "
        "augmented images during it, while the network still changed.",
        alt=alt,
    )


def _draw_run(axes: Axes, run: Run, quantity: Quantity, style: LineStyle, name: str) -> None:
    points = [(record.epoch + 1, quantity(record)) for record in run.records]
    known = [(epoch, value) for epoch, value in points if value is not None]
    if known:
        epochs, values = zip(*known, strict=True)
        draw_band(axes, epochs, Band(values, values, values), style, name)


def clipping_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """Gradient norms by epoch, and how often singular values were too close for the gradient."""
    sections = []
    for pair in pairs:
        figure = clipping_curves(pair.methods)
        missing = [] if figure else ["Not drawn: no run recorded the gradients of both tasks."]
        svd = [run for run in pair.runs if reads(run.config.get("loss", ""), "num_vectors")]
        if svd and all(record.svd_close is None for run in svd for record in run.records):
            missing.append("How often two singular values were close was not recorded.")
        sections.append(Section(pair.title, (figure,) if figure else (), tuple(missing)))
    return sections


def clipping_curves(methods: Sequence[MethodResult]) -> Figure | None:
    """Draw the norms of the task's and the transfer's gradient by epoch, a panel for each row.

    Panels below them show the share of the singular value decompositions in which leading values
    were close, and the share that subspace iteration missed, if either is ever above 0.

    Args:
        methods: rows of one pair of networks.

    Returns:
        The figure; None if no row recorded both gradients.
    """
    methods = [row for row in methods if all(_epochs(row, norm) for norm, _ in NORMS.values())]
    if not methods:
        return None
    recorded = [
        name for name, (of, _) in SHARES.items() if any(_epochs(row, of) for row in methods)
    ]
    shares = [name for name in recorded if any(_occurs(row, SHARES[name][0]) for row in methods)]
    columns = min(PANELS_ABREAST, len(methods))
    rows = -(-len(methods) // columns)
    drawing = new_drawing(10, 2.5 * rows + (2.5 + 0.1 * len(methods) if shares else 0) + 0.3)
    grid = drawing.add_gridspec(rows + bool(shares), GRID_COLUMNS)
    panels: list[Axes] = []
    for place, method in enumerate(methods):
        row, column = divmod(place, columns)
        first = panels[0] if panels else None
        where = grid[row, _abreast(column, columns)]
        panels.append(drawing.add_subplot(where, sharex=first, sharey=first))
        _draw_norms(panels[-1], method, title_width=TITLE_WIDTH * PANELS_ABREAST // columns)
        panels[-1].tick_params(labelleft=column == 0)
        panels[-1].set_ylabel("" if column else "gradient norm")
    legend(drawing, panels[:1], columns=3, place="outside upper center")
    below = []
    for place, name in enumerate(shares):
        below.append(drawing.add_subplot(grid[rows, _abreast(place, len(shares))]))
        _draw_share(below[-1], methods, name)
    legend(drawing, below, columns=2)
    pair = methods[0].runs[0].pair
    alt = (
        f"Norms of the gradients by epoch, {pair}. Panels: "
        f"{'; '.join(method.name for method in methods)}."
    )
    explained = (
        f"{SHARES[name][1]}{'.' if name in shares else '; there were none.'}" for name in recorded
    )
    several = any(len(method.runs) > 1 for method in methods)
    seeds = " and a row's seeds; a band reaches from the lowest seed to the highest"
    return to_figure(
        drawing,
        "clipping",
        title=f"{pair}: gradients of task and transfer",
        caption="Norms over all parameters, means over an epoch's steps"
        + (seeds if several else "")
        + ". Steps of the clips amortised and none that do not measure count with the norms last "
        "measured. " + " ".join(explained),
        alt=alt,
    )


def _abreast(place: int, of: int) -> slice:
    """The columns of the grid for one of several panels side by side."""
    width = GRID_COLUMNS // of
    return slice(place * width, (place + 1) * width)


def _draw_norms(axes: Axes, method: MethodResult, title_width: int) -> None:
    plain(axes)
    for name, (norm, style) in NORMS.items():
        epochs = _epochs(method, norm)
        draw_band(axes, epochs, _band(method, norm, epochs), style, name)
    log_axis(axes)
    epoch_axis(axes)
    axes.set_title(fill(method.name, title_width), fontsize="medium")


def _draw_share(axes: Axes, methods: Sequence[MethodResult], name: str) -> None:
    """A share in percent, as means over the seeds: many bands would hide each other."""
    plain(axes)
    share, _ = SHARES[name]
    styles = styled(method.name for method in methods)
    for method in methods:
        epochs = _epochs(method, share)
        mean = tuple(100 * value for value in _band(method, share, epochs).mean)
        if epochs:
            draw_band(axes, epochs, Band(mean, mean, mean), styles[method.name], method.name)
    axes.set_ylabel("SVDs, %")
    axes.set_ylim(bottom=0)
    epoch_axis(axes)
    axes.set_title(name, fontsize="medium")


def _occurs(method: MethodResult, share: Quantity) -> bool:
    """Whether a share was ever above 0 in a row."""
    return any(share(record) for run in method.runs for record in run.records)


def _epochs(method: MethodResult, quantity: Quantity) -> list[int]:
    """The epochs, from 1, in which every run of a row has a quantity."""
    recorded = [
        {record.epoch + 1 for record in run.records if quantity(record) is not None}
        for run in method.runs
    ]
    return sorted(set.intersection(*recorded))


def _band(method: MethodResult, quantity: Quantity, epochs: Sequence[int]) -> Band:
    """A quantity over the seeds of a row, in some epochs."""
    curves = []
    for run in method.runs:
        values = {record.epoch + 1: quantity(record) for record in run.records}
        curves.append([values[epoch] or 0.0 for epoch in epochs])
    return band_of(curves)
