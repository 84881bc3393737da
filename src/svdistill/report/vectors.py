"""Accuracy against the number of singular vectors, beside the paper's figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from svdistill.losses import may_read
from svdistill.report.comparison import MethodRuns, compare
from svdistill.report.figure import (
    BLACK,
    Figure,
    LineStyle,
    draw_band,
    new_drawing,
    plain,
    styled,
    to_svg,
)
from svdistill.report.published import published_vectors
from svdistill.report.runs import Run, row_name
from svdistill.report.statistics import Band, band_of

SEED_DASHES = ("--", ":", "-.", "-")


@dataclass(frozen=True)
class VectorCurve:
    """Accuracy by the number of vectors, all else the same.

    Attributes:
        pair: the networks.
        row: the row's name with one vector.
        counts: numbers of vectors, ascending; 0 is the student alone.
        accuracy: for each of them, in percent after the last epoch, over the seeds.
    """

    pair: str
    row: str
    counts: tuple[int, ...]
    accuracy: Band

    @property
    def gain(self) -> Band:
        """The same in percentage points over the mean of the student alone."""
        alone = self.accuracy.mean[0]
        lines = (self.accuracy.mean, self.accuracy.lowest, self.accuracy.highest)
        return Band(*(tuple(value - alone for value in line) for line in lines))


def number_of_vectors(runs: Sequence[Run]) -> Figure | None:
    """Draw accuracy and gain against the number of vectors, and the gain in the paper's figure.

    Args:
        runs: of any networks, with their students alone.

    Returns:
        The figure; None where no row was trained with two numbers of vectors and a student alone.
    """
    curves = vector_curves(runs)
    if not curves:
        return None
    pairs = list(dict.fromkeys(curve.pair for curve in curves))
    published = [line for line in map(published_vectors, pairs) if line is not None]
    ours = {count for curve in curves for count in curve.counts}
    counts = sorted(ours.union(*(line.counts for line in published)))
    names = [f"{curve.pair}, {curve.row}" for curve in curves]
    styles = styled(names)
    drawing = new_drawing(10, 4.2 + 0.2 * ((len(curves) + len(published) + 1) // 2))
    left, right = drawing.subplots(1, 2)
    for curve, name in zip(curves, names, strict=True):
        places = [counts.index(count) for count in curve.counts]
        draw_band(left, places, curve.accuracy, styles[name], name)
        draw_band(right, places, curve.gain, styles[name], "_")
    for line, dashes in zip(published, SEED_DASHES, strict=False):
        places = [counts.index(count) for count in line.counts]
        gain = band_of([[accuracy - line.accuracies[0] for accuracy in line.accuracies]])
        draw_band(right, places, gain, LineStyle(BLACK, "x", dashes), f"{line.pair}, the paper's")
    for axes in (left, right):
        plain(axes)
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        axes.set_xlabel("number of vectors k, 0: student alone")
    left.set_ylabel("test accuracy, %")
    right.set_ylabel("gain over the student alone, points")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    values = "; ".join(
        f"{name}: {_spoken(curve)}" for name, curve in zip(names, curves, strict=True)
    )
    alt = f"Accuracy against the number of vectors, in percent. {values}."
    return Figure(
        title=f"Number of singular vectors, {' and '.join(pairs)}",
        caption="Left: test accuracy, mean over the seeds, the band from the lowest seed to the "
        "highest. Right: the same as a gain over the student alone"
        + (
            ", beside the gains in the paper's figure (all of CIFAR-100, in full width), which "
            "were read from its plot."
            if published
            else "."
        ),
        alt=alt,
        svg=to_svg(drawing, "vectors", alt),
    )


def vector_curves(runs: Sequence[Run]) -> list[VectorCurve]:
    """The rows that were trained with two numbers of vectors or more, and with none."""
    curves = []
    for comparison in compare(runs):
        rows: dict[tuple[object, ...], list[MethodRuns]] = {}
        for method in comparison.methods:
            alone = comparison.alone(method)
            config = method.runs[0].config
            if alone is not None and may_read(config["loss"], "num_vectors"):
                row = row_name({**config, "num_vectors": 1})
                rows.setdefault((row, *method.training), [alone]).append(method)
        curves += [
            _curve(comparison.pair, str(row), methods)
            for (row, *_), methods in rows.items()
            if len(methods) > 2
        ]
    return curves


def _curve(pair: str, row: str, methods: Sequence[MethodRuns]) -> VectorCurve:
    methods = sorted(methods, key=_count)
    return VectorCurve(
        pair,
        row,
        tuple(_count(method) for method in methods),
        Band(
            tuple(statistics.fmean(method.last) for method in methods),
            tuple(min(method.last) for method in methods),
            tuple(max(method.last) for method in methods),
        ),
    )


def _count(method: MethodRuns) -> int:
    return 0 if method.is_alone else int(method.runs[0].config["num_vectors"])


def _spoken(curve: VectorCurve) -> str:
    points = zip(curve.counts, curve.accuracy.mean, strict=True)
    return ", ".join(f"k = {count} {accuracy:.1f}" for count, accuracy in points)
