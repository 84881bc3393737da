"""Which run's feature maps the page shows, with which teacher, and why where none can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svdistill.errors import SVDistillError
from svdistill.report.comparisons import Comparison
from svdistill.report.method_results import method_results
from svdistill.report.part import Part
from svdistill.report.runs import Run
from svdistill.report.spectra import analyse, what_is_missing
from svdistill.report.spectra_figures import maps_figure, spectra_figure


def spectra_section(comparisons: Sequence[Comparison], data: str | None) -> list[Part]:
    """Spectra and DFVs before and after, of one run for each comparison.

    That is the first run that can be looked at, of the method with the highest mean; methods that
    compare singular vectors come before the others.

    Args:
        comparisons: each on one pair of networks and one data set.
        data: where the images are now, for runs that do not find theirs.

    Returns:
        A part for each comparison, with two figures or the reason why there are none.
    """
    return [_part(comparison, data) for comparison in comparisons]


def _part(comparison: Comparison, data: str | None) -> Part:
    candidates = [(_at(run, data), _teacher(run, comparison)) for run in _ranked(comparison)]
    try:
        for run, teacher in candidates:
            analysis = analyse(run, teacher)
            if analysis is not None:
                figures = (spectra_figure(analysis), maps_figure(analysis))
                return Part(comparison.title, tuple(one for one in figures if one is not None))
    except SVDistillError as error:  # such as damaged weights, or images of other classes
        return Part(comparison.title, missing=(f"Not drawn: {error}.",))
    if not candidates:
        return Part(comparison.title, missing=("Not drawn: no student was taught.",))
    run, teacher = candidates[0]
    lacking = what_is_missing(run, teacher)
    return Part(comparison.title, missing=(f"Not drawn: {run.path} lacks {lacking}.",))


def _ranked(comparison: Comparison) -> list[Run]:
    """The taught students' runs, those first that are best looked at."""
    taught = [result for result in method_results(comparison) if result.method.runs[0].is_distilled]
    taught.sort(
        key=lambda result: ("svd" not in result.method.runs[0].config["loss"], -result.accuracy)
    )
    return [run for result in taught for run in result.method.runs]


def _teacher(run: Run, comparison: Comparison) -> Path | None:
    """Where a run's teacher lies, among the runs of the report; None to leave it to the run.

    A run from a knowledge store does not name it; one that was moved names where it was.
    """
    named = str(run.config.get("teacher", ""))
    if named and Path(named).exists():
        return None
    teachers = [teacher for row in comparison.teachers for teacher in row.runs]
    same = [teacher.path for teacher in teachers if teacher.path.name == Path(named).name]
    if named and same:
        return same[0]
    return teachers[0].path if len(teachers) == 1 else None


def _at(run: Run, data: str | None) -> Run:
    """The run, with its images where they are now."""
    place = str(run.config["data"]).partition(":")[2]
    if data is None or not place or Path(place).expanduser().exists():
        return run
    return replace(run, config={**run.config, "data": data})
