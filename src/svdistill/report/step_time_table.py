"""What the transfer takes of a training step, by the runs' own metrics."""

from __future__ import annotations

import statistics

from svdistill.report.comparisons import Comparison
from svdistill.report.html_table import Cell, Heading, HTMLTable, number_cell
from svdistill.report.method_results import MethodResult, method_results, seconds_per_image

HEADINGS = ("milliseconds for an image", "over the student alone", "share of the transfer")


def step_time_table(comparison: Comparison) -> HTMLTable | None:
    """Time for an image in training, a row for each student.

    Args:
        comparison: of one pair of networks on one data set.

    Returns:
        The table; None where no taught student was trained beside a student alone, on one machine.
    """
    results = method_results(comparison)
    if not any(result.gains and result.step_time for result in results):
        return None
    return HTMLTable(
        title=comparison.title,
        caption="Time of a training step in the fastest epoch, mean over the seeds",
        headings=(Heading("method", numeric=False), *map(Heading, HEADINGS)),
        rows=tuple(
            _row(result, result.step_time) for result in results if result.step_time is not None
        ),
    )


def _row(result: MethodResult, step_time: float) -> tuple[Cell, ...]:
    seconds = statistics.fmean(map(seconds_per_image, result.method.runs))
    return (
        Cell(result.method.name),
        number_cell(1e3 * seconds, "{:.3f}"),
        number_cell(step_time, "× {:.2f}"),
        number_cell(100 * (1 - 1 / step_time) if step_time >= 1 else None, "{:.0f} %"),
    )
