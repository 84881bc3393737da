"""Summarise a comparison: verdict, main numbers, and tables of accuracies and costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from svdistill.common import (
    Cell,
    Table,
    columns,
    counted,
    duration,
    mean_cell,
    millions,
    millions_cell,
    number_cell,
)
from svdistill.report.comparison import PairComparison
from svdistill.report.methods import MethodResult
from svdistill.report.runs import teacher_network
from svdistill.report.tables import wilson_interval
from svdistill.runs import RunSummary
from svdistill.training import NetworkFigures


class Tile(NamedTuple):
    """A prominent number of the page, its label, and a remark beside it, such as a comparison."""

    label: str
    number: str
    beside: str = ""


@dataclass(frozen=True)
class Headline:
    """The result of a comparison.

    Attributes:
        title: the pair of networks and the data.
        verdict: a sentence on the gain over the student alone; empty if nothing was distilled.
        tiles: the main numbers.
        sentences: remarks on the main numbers.
    """

    title: str
    verdict: str
    tiles: tuple[Tile, ...]
    sentences: str


def headline(pair: PairComparison) -> Headline:
    """Summarise a comparison by its leading row or, if nothing was distilled, by its first student.

    Without students, the first teacher's row is used.
    """
    leader = pair.leader
    method = leader or next(iter(pair.students), pair.methods[0])
    accuracies = _accuracy_tiles(pair, method)
    gain = () if leader is None or not leader.gains else (_gain_tile(leader),)
    return Headline(
        pair.title,
        "" if leader is None else verdict(leader),
        (*gain, *accuracies, *_cost_tiles(pair, method), _training_tile(method)),
        " ".join(_remarks(pair, method)),
    )


def verdict(method: MethodResult) -> str:
    """A sentence on whether the runs show that a distilled row gains over the student alone."""
    if not method.gains:
        return (
            f"The gain of {method.name} is not shown: the runs have no student alone of the same "
            "training and seed. svdistill train with the same options makes one."
        )
    mean, interval = statistics.fmean(method.gains), method.gain_interval
    text = f"{_points(mean, signed=True)} points over the student alone by {method.name}"
    if interval is None:
        return f"{text}; not shown to be a gain: one seed."
    low, high = interval
    result = "worth it" if low > 0 else "not worth it" if high < 0 else "not shown to be a gain"
    seeds = len(method.gains)
    return f"{text}, 95 % interval {_points(low)} to {_points(high)} over {seeds} seeds: {result}."


def _gain_tile(method: MethodResult) -> Tile:
    interval = method.gain_interval
    beside = "one seed"
    if interval is not None:
        low, high = map(_points, interval)
        beside = f"95 %: {low} to {high}, {len(method.gains)} seeds"
    mean = _points(statistics.fmean(method.gains), signed=True)
    return Tile("gain", f"{mean} points", f"over the student alone; {beside}")


def _accuracy_tiles(pair: PairComparison, method: MethodResult) -> list[Tile]:
    """The tiles for the accuracies of a row and of its teacher."""
    run, accuracy, count = method.runs[0], method.accuracy, len(method.runs)
    beside = "on the test images"
    if method.alone is not None:
        beside = f"student alone: {method.alone.accuracy:.2f} %"
    elif count > 1:
        beside = f"± {statistics.stdev(method.last):.2f} over {count} runs"
    elif run.test_images:
        low, high = wilson_interval(accuracy, run.test_images)
        beside = f"95 %: {low:.1f} to {high:.1f} for other {run.test_images:,} images"
    kind = "student" if method.is_distilled or method.is_alone else "accuracy"
    tiles = [Tile(kind, f"{accuracy:.2f} %", beside)]
    teacher = _teacher_accuracy(pair, method)
    if teacher is not None:
        ahead = teacher - accuracy
        beside = f"{abs(ahead):.2f} points {'above' if ahead > 0 else 'below'} the student"
        beside = beside if ahead else "as the student"
        tiles.append(Tile("teacher", f"{teacher:.2f} %", beside))
    return tiles


def _teacher_accuracy(pair: PairComparison, method: MethodResult) -> float | None:
    """The accuracy of a row's teacher, of its own run or as measured; None if it is unknown."""
    teacher = pair.teacher_of(method)
    if teacher is None:
        return None if method.is_teacher else method.runs[0].summary.teacher_accuracy
    return teacher.accuracy


def _cost_tiles(pair: PairComparison, method: MethodResult) -> list[Tile]:
    """The tiles for size and latency of the exported file or, without one, the PyTorch network.

    If neither was measured, they show the numbers of parameters and FLOPs.
    """
    summary = method.runs[0].summary
    shipped = next((run.shipped[0] for run in method.runs if run.shipped), None)
    measured = next((run.before_after for run in method.runs if run.before_after), None)
    if shipped is not None:
        how = f"{shipped.runtime}, {shipped.precision}"
        tiles = [Tile("shipped file", _megabytes(shipped.bytes), how)]
        if shipped.milliseconds is not None:
            where = f"one image, {shipped.runtime}, {counted(shipped.threads, 'thread')}"
            tiles.append(Tile("latency", f"{shipped.milliseconds:.2f} ms", where))
        return tiles
    if measured is not None:
        own, before = measured.after, measured.teacher
        less = "" if before is None else _times(before.bytes, own.bytes, "less")
        threads = counted(measured.threads, "thread")
        where = f"of the PyTorch network, {threads}; export measures the file's"
        return [
            Tile("weights", _megabytes(own.bytes), less),
            Tile("latency", f"{own.milliseconds:.2f} ms", where),
        ]
    teacher = pair.teacher_of(method)
    other = None if teacher is None else teacher.runs[0].summary
    return [
        Tile(
            "parameters",
            millions(summary.parameters, digits=3),
            "" if other is None else _times(other.parameters, summary.parameters, "fewer"),
        ),
        Tile(
            "FLOPs of an image",
            millions(summary.flops),
            "" if other is None else _times(other.flops, summary.flops, "fewer"),
        ),
    ]


def _training_tile(method: MethodResult) -> Tile:
    """The tile for the cost of training: duration, images per second, and ratio of step times."""
    seconds = statistics.fmean(run.summary.seconds for run in method.runs)
    rate = statistics.median(
        record.images_per_second for run in method.runs for record in run.records
    )
    beside = f"{rate:,.0f} images/s"
    if method.is_distilled and method.step_time is not None:
        beside += f", × {method.step_time:.1f} the time of the student alone"
    return Tile("training", duration(seconds), beside)


def _remarks(pair: PairComparison, method: MethodResult) -> Iterator[str]:
    """Sentences on what to consider when reading the main numbers."""
    alone, summary = method.alone, method.runs[0].summary
    teacher = _teacher_accuracy(pair, method)
    if len(pair.distilled) > 1:
        yield (
            f"Of {len(pair.distilled)} distilled rows this one was chosen by its accuracy on the "
            "test images, so its gain is an optimistic figure."
        )
    if alone is not None and alone.epochs != method.epochs:
        yield f"It was trained for {method.epochs} epochs, the student alone for {alone.epochs}."
    if alone is not None and teacher is not None and teacher <= alone.accuracy:
        yield "The teacher is no more accurate than the student alone: it had little to teach."
    if len(pair.runs) == 1 and summary.best_accuracy > summary.last_accuracy:
        chosen = "the test images, which makes it an optimistic figure"
        chosen = "held-out images" if summary.best_by == "dev" else chosen
        yield (
            f"The best epoch was {summary.best_epoch} of {summary.epochs}, with "
            f"{summary.best_accuracy:.2f} %, chosen on {chosen}; its weights are "
            "student-best.safetensors."
        )


def _points(points: float, *, signed: bool = False) -> str:
    return f"{points:{'+' if signed else ''}.1f}".replace("-", "\N{MINUS SIGN}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _times(teacher: float, student: float, less: str) -> str:
    """Describe the factor by which a student's cost differs from its teacher's.

    Example:
        >>> _times(74.0, 4.3, "less"), _times(1.0, 1.0, "less")
        ('17 × less than the teacher', 'as the teacher')
    """
    ratio = max(teacher, student) / max(min(teacher, student), 1e-12)
    digits = 0 if ratio >= 10 else 1
    if round(ratio, digits) == 1:
        return "as the teacher"
    return f"{ratio:.{digits}f} × {less if student < teacher else 'more'} than the teacher"


def accuracy_table(pair: PairComparison) -> Table:
    """The table of accuracies, with a row for each method; the headline's row is highlighted.

    Columns with the paper's numbers are included if the paper has a number for any row.
    """
    methods = pair.methods
    gain = any(method.gains for method in methods)
    time = any(method.step_time and method.is_distilled for method in methods)
    cells = {
        "last epoch %": [mean_cell(method.last) for method in methods],
        "best epoch %": [mean_cell(method.best) for method in methods],
        "seeds": [_seeds_cell(method) for method in methods],
    }
    if gain:
        cells["gain"] = [mean_cell(method.gains, signed=True) for method in methods]
        cells["95 % of the gain"] = [_interval_cell(method) for method in methods]
    if time:
        cells["time of a step"] = [number_cell(method.step_time, "× {:.2f}") for method in methods]
    if any(method.published is not None for method in methods):
        gains = [number_cell(method.published_gain, "{:+.2f}") for method in methods]
        cells["paper's gain"] = gains
        cells["paper's %"] = [number_cell(method.published) for method in methods]
    names = [Cell(method.name) for method in methods]
    return Table(
        title=pair.title,
        caption="Test accuracy in percent, mean ± standard deviation over the seeds",
        columns=columns("method", *cells),
        rows=tuple(zip(names, *cells.values(), strict=True)),
        best=tuple(place for place, method in enumerate(methods) if method is pair.leader),
        notes=tuple(_accuracy_notes(pair, gain, time)),
    )


def _interval_cell(method: MethodResult) -> Cell:
    interval = method.gain_interval
    if interval is None:
        return number_cell(None)
    return Cell(" to ".join(map(_points, interval)), interval[0])


def _seeds_cell(method: MethodResult) -> Cell:
    seeds = len(set(method.seeds))
    repeated = f" ({len(method.runs)} runs)" if len(method.runs) > seeds else ""
    return Cell(f"{seeds}{repeated}", seeds)


def _accuracy_notes(pair: PairComparison, gain: bool, time: bool) -> Iterator[str]:
    """Sentences on how to read the columns of the table of accuracies."""
    if gain:
        yield (
            "The gain is the mean of the differences from the student alone of the same training "
            "and seed, in points; its interval is Student's t over the seeds."
        )
        if any(row.alone and row.alone.epochs != row.epochs for row in pair.distilled):
            yield "2-stage rows have more epochs than their student alone."
    if time:
        yield (
            "The time of a step is for one image, in the fastest epoch, over that of the student "
            "alone on the same machine."
        )
    if not all(run.summary.best_by == "dev" for run in pair.runs):
        yield "The best epoch was chosen on the test images, an optimistic figure."
    if pair.is_of_paper:
        yield _paper_note(pair)


def _paper_note(pair: PairComparison) -> str:
    if all(method.published is None for method in pair.methods):
        return f"The paper has no number for these rows on {pair.data}."
    training = ", ".join(one.setting for one in pair.deviations if one.of_training)
    teaching = ", ".join(one.setting for one in pair.deviations if not one.of_training)
    if training:
        return (
            "The paper's numbers are for its full protocol, from which these runs differ in "
            f"{training}; of the two gains only the sign can be compared."
        )
    if teaching:
        return f"Trained as in the paper; distillation differs in {teaching}."
    return "Trained and distilled as in the paper."


def cost_table(pair: PairComparison) -> Table:
    """The table of size and speed of teacher and student in PyTorch, and of exported files."""
    method = pair.leader or pair.methods[0]
    run = method.runs[0]
    measured = next((run.before_after for run in method.runs if run.before_after), None)
    networks: dict[str, RunSummary | NetworkFigures] = {
        f"teacher {one.runs[0].summary.network}": one.runs[0].summary for one in pair.teachers
    }
    if not networks and measured is not None and measured.teacher is not None:
        networks[f"teacher {teacher_network(run)}".strip()] = measured.teacher
    if not method.is_teacher:
        kind = "student " if method.is_distilled or method.is_alone else ""
        networks[kind + run.summary.network] = run.summary
    figures = [] if measured is None else measured.rows().values()
    timed = {(one.parameters, one.flops): one for one in figures}
    rows = [
        _cost_row(name, own, timed.get((own.parameters, own.flops)))
        for name, own in networks.items()
    ]
    shipped = [file for run in method.runs for file in run.shipped]
    known = 5 if timed or shipped else 3
    for file in shipped:
        name, size = f"{file.name}: {file.runtime}, {file.precision}", file.bytes / 1e6
        time = number_cell(file.milliseconds, "{:.2f} ms")
        rows.append((Cell(name), Cell(""), Cell(""), number_cell(size, "{:.2f} MB"), time))
    threads = [file.threads for file in shipped] or [one.threads for one in [measured] if one]
    notes = (
        f"Latency is the median on the CPU, {counted(threads[0], 'thread')}." if threads else "",
        "" if shipped else "svdistill export measures the size and latency of the shipped file.",
    )
    return Table(
        title=pair.title,
        caption="Costs of the networks, for one image; FLOPs are 2 x multiply-adds",
        columns=columns("network", "parameters", "FLOPs", "size", "latency")[:known],
        rows=tuple(row[:known] for row in rows),
        notes=tuple(filter(None, notes)),
        sortable=False,
    )


def _cost_row(
    name: str, network: RunSummary | NetworkFigures, timed: NetworkFigures | None
) -> tuple[Cell, ...]:
    return (
        Cell(name),
        millions_cell(network.parameters, digits=3),
        millions_cell(network.flops),
        number_cell(None if timed is None else timed.bytes / 1e6, "{:.2f} MB"),
        number_cell(None if timed is None else timed.milliseconds, "{:.2f} ms"),
    )
