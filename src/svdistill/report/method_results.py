"""What a method gained and what it cost, beside the student alone and the paper's number."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from svdistill.report.comparisons import Comparison, MethodRuns
from svdistill.report.data_names import class_choice, dataset_name
from svdistill.report.published_results import published_accuracy, published_large_data
from svdistill.report.runs import Run

# Speeds compare only where all of these are equal.
MACHINE: Final = ("platform", "processor", "gpu", "threads")


@dataclass(frozen=True)
class MethodResult:
    """One row of an accuracy table. Accuracies are percentages, differences are in points.

    Attributes:
        method: the runs.
        gains: over the student alone of the same seed, one for each seed that both have.
        published: the paper's accuracy; None where it has none for this method on these data.
        published_gain: the paper's gain over its own student alone, likewise.
        step_time: seconds for an image in training over the student alone's; None where there is
            no student alone, or it was trained on another machine.
    """

    method: MethodRuns
    gains: tuple[float, ...]
    published: float | None
    published_gain: float | None
    step_time: float | None

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, after the last epoch."""
        return statistics.fmean(self.method.last)

    @property
    def difference(self) -> float | None:
        """From the paper's accuracy."""
        return None if self.published is None else self.accuracy - self.published


def method_results(comparison: Comparison) -> list[MethodResult]:
    """The rows of a comparison, in its order."""
    return [_result(comparison, method) for method in comparison.methods]


def best_results(results: Iterable[MethodResult]) -> list[MethodResult]:
    """The students with the highest mean after the last epoch; several where they are equal."""
    students = [result for result in results if not result.method.is_teacher]
    highest = max((result.accuracy for result in students), default=0.0)
    return [result for result in students if result.accuracy == highest]


def seconds_per_image(run: Run) -> float:
    """Training time for one image in the fastest of the epochs that have a transfer, if any do.

    Whatever else a machine does makes the others slower, and none faster.
    """
    epochs = [record for record in run.records if record.stage != "task"] or run.records
    return min(1 / record.images_per_second for record in epochs)


def _result(comparison: Comparison, method: MethodRuns) -> MethodResult:
    alone, published = comparison.alone(method), _published(comparison, method)
    if alone is None:
        return MethodResult(method, (), published, None, 1.0 if method.is_alone else None)
    published_alone = _published(comparison, alone)
    published_gain = None
    if published is not None and published_alone is not None:
        published_gain = published - published_alone
    accuracy_alone = dict(zip(alone.seeds, alone.last, strict=True))
    gains = tuple(
        accuracy - accuracy_alone[seed]
        for seed, accuracy in zip(method.seeds, method.last, strict=True)
        if seed in accuracy_alone
    )
    return MethodResult(method, gains, published, published_gain, _step_time(method, alone))


def _published(comparison: Comparison, method: MethodRuns) -> float | None:
    run = method.runs[0]
    if not run.is_of_seed:
        return None
    data = dataset_name(run.config)
    if data == "CIFAR-100":
        return published_accuracy(comparison.pair, run.row)
    drawn = class_choice(run.config) == "50 classes"
    return published_large_data("ImageNet-50" if data == "ImageNet" and drawn else data, run.row)


def _step_time(method: MethodRuns, alone: MethodRuns) -> float | None:
    machines = {
        tuple(run.environment.get(name) for name in MACHINE) for run in method.runs + alone.runs
    }
    if len(machines) > 1:
        return None
    taught, untaught = (
        statistics.fmean(map(seconds_per_image, rows.runs)) for rows in (method, alone)
    )
    return taught / untaught
