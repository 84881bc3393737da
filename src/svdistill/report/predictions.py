"""The page's section on predictions: classes, confusions, calibration, agreement with teachers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

from svdistill.common import Cell, Column, Table, columns, number_cell
from svdistill.report.comparison import PairComparison
from svdistill.report.figure import (
    BLACK,
    Figure,
    Section,
    legend,
    new_drawing,
    plain,
    styled,
    to_svg,
)
from svdistill.report.methods import MethodResult
from svdistill.training import CalibrationBin, PredictionSummary

MOST_CLASSES: Final = 20  # the largest number of classes that are all listed
ENDS: Final = 8  # of more classes, so many of the worst and so many of the best are listed
MATRIX: Final = 10  # the largest number of classes whose confusions are shown as a matrix
CONFUSIONS: Final = 10  # of more classes, so many of the most frequent confusions are listed
FEWEST: Final = 10  # the reliability diagram leaves out bins of fewer images


def predictions_section(pairs: Sequence[PairComparison]) -> list[Section]:
    """One section for each comparison in which at least one run recorded its predictions."""
    return [_section(pair) for pair in pairs if any(map(_recorded, pair.methods))]


def _section(pair: PairComparison) -> Section:
    """Tables and figure of one comparison: all rows in brief, and up to three in detail.

    The latter are the leading row, its teacher and its student alone.
    """
    leader = pair.leader
    rows = [*pair.teachers[:1], *pair.students[:1]]
    if leader is not None:
        rows = [row for row in (pair.teacher_of(leader), leader.alone, leader) if row is not None]
    recorded = [row for row in pair.methods if _recorded(row)]
    shown = [row for row in rows if _recorded(row)] or recorded[-1:]
    tables = (quality_table(recorded), class_table(shown), confusion_table(shown[-1]))
    return Section(pair.title, tables, (reliability_diagram(shown),))


def _recorded(method: MethodResult) -> list[PredictionSummary]:
    """The prediction summaries of those runs of a row that recorded them."""
    return [run.predictions for run in method.runs if run.predictions is not None]


def quality_table(methods: Sequence[MethodResult]) -> Table:
    """Agreement with the teacher, calibration error, worst and best class of each row."""
    rows, several = [], any(len(method.runs) > 1 for method in methods)
    for method in methods:
        found = _recorded(method)
        agreements = [one.agreement for one in found if one.agreement is not None]
        agreement = 100 * statistics.fmean(agreements) if agreements else None
        ranked = sorted(_class_accuracies(method).items(), key=lambda item: item[1])
        ends = [
            Cell(f"{name}: {accuracy:.1f}", accuracy) for name, accuracy in (ranked[0], ranked[-1])
        ]
        error = number_cell(_calibration_error(method))
        rows.append((Cell(method.name), number_cell(agreement), error, *ends))
    return Table(
        "Predictions on the test images",
        columns(
            "method",
            *("agreement with the teacher %", "calibration error %", "worst class %"),
            "best class %",
        ),
        tuple(rows),
        caption="Predictions on the test images" + (", means over the seeds" if several else ""),
        notes=(
            "Agreement: the share of the images that student and teacher put into the same class.",
        ),
    )


def class_table(methods: Sequence[MethodResult]) -> Table:
    """Accuracy of each class, with a column for each method, sorted by that of the last method."""
    last = methods[-1]
    found = [_class_accuracies(method) for method in methods]
    names = sorted(found[-1], key=lambda name: found[-1][name])
    caption = f"Accuracy of each class in percent, the lowest of {last.name} first"
    if len(names) > MOST_CLASSES:
        names = [*names[:ENDS], *names[-ENDS:]]
        caption = (
            f"Accuracy by class in percent: the {ENDS} lowest and the {ENDS} highest of "
            f"{len(found[-1])} classes for {last.name}"
        )
    values = [[accuracies.get(name) for name in names] for accuracies in found]
    headings = [method.name for method in methods]
    cells = [[number_cell(value, "{:.1f}") for value in column] for column in values]
    if len(methods) > 1 and methods[-2] == last.alone:
        headings.append("gain")
        pairs = zip(values[-1], values[-2], strict=True)
        gains = (None if a is None or b is None else a - b for a, b in pairs)
        cells.append([number_cell(gain, "{:+.1f}") for gain in gains])
    rows = zip(map(Cell, names), *cells, strict=True)
    return Table("Accuracy by class", columns("class", *headings), tuple(rows), caption=caption)


def confusion_table(method: MethodResult) -> Table:
    """The confusion matrix or, if there are many classes, the most frequent confusions."""
    found = _recorded(method)
    names = found[0].class_names
    counts: Counter[tuple[int, int]] = Counter()
    for one in found:
        if one.class_names == names:
            counts.update({(label, guess): n for label, guess, n in one.confusions})
    over = f", over {len(found)} seeds" if len(found) > 1 else ""
    if len(names) <= MATRIX:
        places = range(len(names))
        rows = tuple(
            (Cell(names[label]), *(_count_cell(counts[label, guess]) for guess in places))
            for label in places
        )
        return Table(
            "Confusions",
            columns("label", *names),
            rows,
            caption=f"Test images of {method.name} by label (rows) and predicted class{over}",
            sortable=False,
        )
    images: Counter[int] = Counter()
    for (label, _), count in counts.items():
        images[label] += count
    wrong = Counter({pair: n for pair, n in counts.items() if pair[0] != pair[1]})
    return Table(
        "Confusions",
        (
            *(Column(heading, numeric=False) for heading in ("label", "predicted")),
            *(Column(heading) for heading in ("images", "of the label's %")),
        ),
        tuple(
            (
                *(Cell(names[label]), Cell(names[guess])),
                *(number_cell(n, "{}"), number_cell(100 * n / images[label], "{:.1f}")),
            )
            for (label, guess), n in wrong.most_common(CONFUSIONS)
        ),
        caption=f"The most frequent confusions of {method.name}{over}",
    )


def _count_cell(count: int) -> Cell:
    return Cell(str(count) if count else "", count)


def reliability_diagram(methods: Sequence[MethodResult]) -> Figure:
    """Draw accuracy against confidence, and the share of images by confidence."""
    drawing = new_drawing(10, 4.6)
    left, right = drawing.subplots(1, 2)
    styles = styled(method.name for method in methods)
    for axes in (left, right):
        plain(axes)
        axes.set(xlabel="confidence, %", xlim=(0, 101))
    left.plot((0, 100), (0, 100), color=BLACK, linewidth=1, alpha=0.5, label="calibrated")
    said = []
    for method in methods:
        style, bins = styles[method.name], _bins(method)
        images = sum(one.images for one in bins)
        error = _calibration_error(method)
        drawn = [one for one in bins if one.images >= FEWEST]
        look = {"color": style.colour, "linestyle": style.dashes, "linewidth": 1.8}
        label = f"{method.name}: error {error:.1f} %"
        left.plot(
            [100 * one.confidence / one.images for one in drawn],
            [100 * one.right / one.images for one in drawn],
            marker=style.marker or ".",
            markersize=5,
            label=label,
            **look,
        )
        edges = [100 * place / len(bins) for place in range(len(bins) + 1)]
        right.stairs([100 * one.images / images for one in bins], edges, **look)
        said.append(label)
    left.set(ylabel="accuracy, %", ylim=(0, 101))
    right.set_ylabel("images, %")
    legend(drawing, [left], columns=2)
    return Figure(
        title="Calibration",
        caption="Left: accuracy of the test images by confidence, the largest softmax probability, "
        f"in {len(bins)} bins, without bins of fewer than {FEWEST} images; below the diagonal a "
        "network is overconfident. The expected calibration error is the mean distance from the "
        "diagonal over the images. Right: share of the images in each bin.",
        svg=to_svg(drawing, f"Reliability diagram. Expected calibration error: {'; '.join(said)}."),
    )


def _calibration_error(method: MethodResult) -> float:
    return 100 * statistics.fmean(one.calibration_error for one in _recorded(method))


def _class_accuracies(method: MethodResult) -> dict[str, float]:
    """Accuracy of each class in percent, mean over the seeds."""
    values: dict[str, list[float]] = {}
    for one in _recorded(method):
        for name, accuracy in one.class_accuracies().items():
            values.setdefault(name, []).append(accuracy)
    return {name: statistics.fmean(accuracies) for name, accuracies in values.items()}


def _bins(method: MethodResult) -> list[CalibrationBin]:
    """The calibration bins of a row: the counts of each bin are summed over the row's runs."""
    bins = zip(*(one.bins for one in _recorded(method)), strict=True)
    return [CalibrationBin(*map(sum, zip(*of_runs, strict=True))) for of_runs in bins]
