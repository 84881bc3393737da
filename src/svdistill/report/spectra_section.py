"""Which run's feature maps the page shows, with which teacher, and why where none can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svdistill.errors import SVDistillError
from svdistill.losses.registry import reads
from svdistill.report.comparisons import Comparison
from svdistill.report.feature_maps import tapped_maps
from svdistill.report.figure import Figure
from svdistill.report.lineage import named_teacher, teacher_among
from svdistill.report.maps_figure import maps_figure
from svdistill.report.method_results import method_results
from svdistill.report.part import Part
from svdistill.report.rebuilding import Missing
from svdistill.report.runs import Run
from svdistill.report.spectra import Analysis, analyse
from svdistill.report.spectra_figure import spectra_figure
from svdistill.report.tap_pairs import chosen_pairs, compares_channels, pairs_table, run_pairs
from svdistill.taps import PairedTaps, TapPairs


def spectra_section(comparisons: Sequence[Comparison], data: str | None) -> list[Part]:
    """Taps, their spectra and DFVs before and after, of one run for each comparison.

    That is a run of the method with the highest mean; one that kept its weights and whose teacher
    is at hand comes before the others, and methods that compare singular vectors before those that
    do not.

    Args:
        comparisons: each on one pair of networks and one data set.
        data: where the images are now, for runs that do not find theirs.

    Returns:
        A part for each comparison, with what can be shown, and the reason for what cannot.
    """
    return [_part(comparison, data) for comparison in comparisons]


def _part(comparison: Comparison, data: str | None) -> Part:
    taught = _ranked(comparison)
    if not taught:
        return Part(comparison.title, missing=("Not drawn: no student was taught.",))
    candidates = [(_at(run, data), _teacher(run, comparison)) for run in taught]
    run, teacher = min(candidates, key=lambda pair: (pair[0].weights is None, pair[1] is None))
    try:
        pairs = run_pairs(run, teacher)
    except (Missing, SVDistillError) as reason:  # such as damaged weights
        table = pairs_table(run, chosen_pairs(run))
        return Part(comparison.title, missing=(f"Not shown: {reason}.",), table=table)
    try:
        figures, missing = _figures(run, pairs, teacher)
    except (Missing, SVDistillError) as reason:  # such as images of other classes
        figures, missing = (), (f"Spectra are not drawn: {reason}.",)
    return Part(comparison.title, figures, missing, pairs_table(run, pairs))


def _figures(
    run: Run, pairs: PairedTaps | TapPairs, teacher: Path | None
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """What can be drawn, and a sentence for each thing that cannot."""
    paths = pairs.pairs if isinstance(pairs, PairedTaps) else pairs
    if not paths.student:
        return (), ("Nothing was tapped: the loss reads logits alone.",)
    maps = tapped_maps(run, paths, teacher)
    analysis = analyse(run, maps)
    drawn = (spectra_figure(analysis), maps_figure(analysis))
    reason = _without_maps(analysis, compares_channels(run)) if maps.teacher else ""
    return tuple(filter(None, drawn)), (*maps.missing, *filter(None, [reason]))


def _without_maps(analysis: Analysis, compares: bool) -> str:
    """Why some neighbouring taps have no DFVs drawn; empty where all have."""
    if len(analysis.maps) >= len(analysis.spectra) - 1:
        return ""
    some = "Some" if analysis.maps else "No"
    adapters = " The adapters through which they were compared are not kept." if compares else ""
    return (
        f"{some} distillation feature vectors are drawn: they relate channels, of which teacher "
        f"and student have different numbers.{adapters}"
    )


def _ranked(comparison: Comparison) -> list[Run]:
    """The taught students' runs, those first that are best looked at."""
    taught = [result for result in method_results(comparison) if result.method.is_taught]
    taught.sort(
        key=lambda result: (
            not reads(result.method.runs[0].config["loss"], "num_vectors"),
            -result.accuracy,
        )
    )
    return [run for result in taught for run in result.method.runs]


def _teacher(run: Run, comparison: Comparison) -> Path | None:
    """Where a run's teacher lies, if that is known.

    A run from a knowledge store may not name it; one that was moved names where it was.
    """
    named = named_teacher(run)
    if named and Path(named).exists():
        return Path(named)
    teachers = [teacher for row in comparison.teachers for teacher in row.runs]
    among = teacher_among(run, teachers)
    if among is None and not named and len(teachers) == 1:
        among = teachers[0]
    return None if among is None else among.path


def _at(run: Run, data: str | None) -> Run:
    """The run, with its images where they are now."""
    place = str(run.config["data"]).partition(":")[2]
    if data is None or not place or Path(place).expanduser().exists():
        return run
    return replace(run, config={**run.config, "data": data})
