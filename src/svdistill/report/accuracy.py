"""Accuracies and step times as tables, and the headline of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from svdistill.common import (
    Cell,
    Table,
    columns,
    mean_cell,
    mean_std,
    millions_cell,
    number_cell,
)
from svdistill.losses import reads
from svdistill.report.comparison import MethodResult, PairComparison
from svdistill.runs import RunSummary


@dataclass(frozen=True)
class MethodRow:
    """A row of a table of runs that has no comparison.

    Accuracies are percentages on the test split after the last and the best epoch, one a seed.
    """

    method: str
    last: tuple[float, ...]
    best: tuple[float, ...]
    parameters: int
    flops: int


def method_rows(runs: Iterable[tuple[str, RunSummary]]) -> list[MethodRow]:
    """Group summaries by method, in the order in which methods first appear.

    Args:
        runs: pairs of a method's name and a run's summary.

    Returns:
        A row for each method.
    """
    groups: dict[str, list[RunSummary]] = {}
    for method, summary in runs:
        groups.setdefault(method, []).append(summary)
    return [
        MethodRow(
            method,
            tuple(run.last_accuracy for run in summaries),
            tuple(run.best_accuracy for run in summaries),
            summaries[0].parameters,
            summaries[0].flops,
        )
        for method, summaries in groups.items()
    ]


def run_table(rows: Sequence[MethodRow], title: str = "") -> Table:
    """A table of runs for the terminal and Markdown.

    Example:
        >>> rows = [MethodRow("SVD", (90.0, 92.0), (91.0, 93.0), 50154, 1413120)]
        >>> print(run_table(rows).to_markdown())
        |  | accuracy % | best epoch % | parameters | FLOPs | seeds |
        |---|---|---|---|---|---|
        | SVD | 91.00 ± 1.41 | 92.00 ± 1.41 | 0.050M | 1.4M | 2 |
    """
    cells = (
        (
            Cell(row.method),
            Cell(mean_std(row.last), statistics.fmean(row.last)),
            Cell(mean_std(row.best), statistics.fmean(row.best)),
            millions_cell(row.parameters, digits=3),
            millions_cell(row.flops),
            number_cell(len(row.last), "{}"),
        )
        for row in rows
    )
    headings = ("accuracy %", "best epoch %", "parameters", "FLOPs", "seeds")
    return Table(title, columns("", *headings), tuple(cells))


def accuracy_table(comparison: PairComparison) -> Table:
    """A row for each method; the student with the highest mean is highlighted.

    The paper's columns are included if it has a number for any row.
    """
    methods, best = comparison.methods, comparison.best
    with_paper = any(method.published is not None for method in methods)
    paper = ("paper's gain", "paper's %", "difference") if with_paper else ()
    headings = ("last epoch %", "best epoch %", "seeds", "gain", *paper, "parameters", "FLOPs")
    return Table(
        title=comparison.title,
        caption="Test accuracy in percent, mean ± standard deviation over the seeds",
        columns=columns("method", *headings),
        rows=tuple(_accuracy_row(method, with_paper) for method in methods),
        best=tuple(place for place, method in enumerate(methods) if method in best),
        notes=tuple(_accuracy_notes(comparison)),
    )


def _accuracy_row(method: MethodResult, with_paper: bool) -> tuple[Cell, ...]:
    summary = method.runs[0].summary
    seeds = len(set(method.seeds))
    repeated = f" ({len(method.runs)} runs)" if len(method.runs) > seeds else ""
    paper = (
        number_cell(method.published_gain, "{:+.2f}"),
        number_cell(method.published),
        number_cell(method.difference, "{:+.2f}"),
    )
    return (
        Cell(method.name),
        mean_cell(method.last),
        mean_cell(method.best),
        Cell(f"{seeds}{repeated}", seeds),
        mean_cell(method.gains, signed=True),
        *(paper if with_paper else ()),
        millions_cell(summary.parameters, digits=3),
        millions_cell(summary.flops),
    )


def _accuracy_notes(comparison: PairComparison) -> list[str]:
    """How to read the paper's numbers, and the accuracy of the best epoch."""
    notes = [_paper_note(comparison)] if comparison.is_of_paper else []
    if all(run.summary.best_by == "dev" for run in comparison.runs):
        return [*notes, "The best epoch is the best on held-out images."]
    return [
        *notes,
        "The best epoch was chosen on the test images, so its accuracy is an optimistic figure.",
    ]


def _paper_note(comparison: PairComparison) -> str:
    if all(method.published is None for method in comparison.methods):
        return f"The paper has no number for these rows on {comparison.data}."
    training = ", ".join(one.setting for one in comparison.deviations if one.of_training)
    teaching = ", ".join(one.setting for one in comparison.deviations if not one.of_training)
    if training:
        return (
            "The paper's numbers are for its full protocol, from which these runs differ in "
            f"{training}. So the difference does not say whether the paper's result was "
            "reproduced, and of the two gains only the sign can be compared."
        )
    if teaching:
        return f"Trained as in the paper; distillation differs in {teaching}."
    return "Trained and distilled as in the paper."


def step_time_table(comparison: PairComparison) -> Table | None:
    """Time for an image in training, a row for each student.

    Returns:
        The table; None if no distilled student was trained beside a student alone, on one machine.
    """
    if not any(method.gains and method.step_time for method in comparison.methods):
        return None
    headings = ("milliseconds for an image", "over the student alone", "share of the transfer")
    rows = []
    for method in comparison.methods:
        ratio = method.step_time
        if ratio is not None:
            rows.append(
                (
                    Cell(method.name),
                    number_cell(1e3 * method.seconds_per_image, "{:.3f}"),
                    number_cell(ratio, "× {:.2f}"),
                    number_cell(100 * (1 - 1 / ratio) if ratio >= 1 else None, "{:.0f} %"),
                )
            )
    return Table(
        title=comparison.title,
        caption="Time of a training step in the fastest epoch, mean over the seeds",
        columns=columns("method", *headings),
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class Headline:
    """The result of one comparison.

    Attributes:
        title: the pair of networks and the data.
        numbers: labels with accuracy or gain.
        sentences: the same in words.
    """

    title: str
    numbers: tuple[tuple[str, Cell], ...]
    sentences: str


def headline(comparison: PairComparison) -> Headline:
    """Summarise a comparison by its best distilled student, and by the best of SVD.

    Returns:
        The headline. A gain that the runs do not determine is not among the numbers; a sentence
        says why.
    """
    distilled = comparison.distilled
    best = max(distilled, key=_accuracy, default=None)
    if best is not None:
        alone = comparison.student_alone(best)
    else:
        alone = next((method for method in comparison.students if method.is_alone), None)
    shown = [*comparison.teachers[:1], *filter(None, (alone, best))]
    numbers = [(f"{method.name}, %", mean_cell(method.last)) for method in shown]
    if best is not None and best.gains:
        numbers.append(("gain, points", mean_cell(best.gains, signed=True)))
    sentences = [
        _ranking(best, len(distilled)),
        _best_of_svd(distilled, best),
        _weak_teacher(comparison, alone),
    ]
    return Headline(comparison.title, tuple(numbers), " ".join(filter(None, sentences)))


def _accuracy(method: MethodResult) -> float:
    return method.accuracy


def _ranking(best: MethodResult | None, methods: int) -> str:
    if best is None:
        return "No student was distilled, so there is nothing to compare."
    if methods == 1:
        return f"Distilled by {best.name}: {_gain(best)}."
    return f"The best of {methods} methods is {best.name}: {_gain(best)}."


def _best_of_svd(distilled: Sequence[MethodResult], best: MethodResult | None) -> str:
    svd = [method for method in distilled if reads(method.loss, "num_vectors")]
    if not svd or best in svd:
        return ""
    best_svd = max(svd, key=_accuracy)
    return f"By singular vectors the best is {best_svd.name}: {_gain(best_svd)}."


def _gain(method: MethodResult) -> str:
    if not method.gains:
        return "its gain is unknown without a student alone of the same training"
    gain, seeds = statistics.fmean(method.gains), len(method.gains)
    text = f"{abs(gain):.2f} points {'below' if gain < 0 else 'above'} the student alone"
    if seeds == 1:
        return f"{text}, with one seed, so the spread is not known"
    ahead = sum(gain > 0 for gain in method.gains)
    return f"{text} on average, and above it with {ahead} of {seeds} seeds"


def _weak_teacher(comparison: PairComparison, alone: MethodResult | None) -> str:
    if not comparison.teachers or alone is None:
        return ""
    if comparison.teachers[0].accuracy > alone.accuracy:
        return ""
    return "The teacher is no more accurate than the student alone: it had little to teach."
