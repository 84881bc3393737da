"""What a page shows: of one run what it came to, of several how they compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from svdistill.report.accuracy_tables import accuracy_note, accuracy_table
from svdistill.report.comparisons import Comparison
from svdistill.report.contents import AccuracyEntry, Contents, Facts
from svdistill.report.data_names import dataset_name
from svdistill.report.details import configurations, machines
from svdistill.report.deviations import deviation_table, deviations, network_deviations
from svdistill.report.grouping import compare
from svdistill.report.headlines import headline
from svdistill.report.image_facts import image_facts
from svdistill.report.lineage import teacher_network
from svdistill.report.outcome import outcome
from svdistill.report.part import Part
from svdistill.report.row_names import loss_name
from svdistill.report.run_curves_figure import run_curves
from svdistill.report.runs import Run
from svdistill.report.sections import (
    clipping_section,
    cost_section,
    curves_section,
    vectors_section,
)
from svdistill.report.spectra_section import spectra_section
from svdistill.report.step_time_table import step_time_table
from svdistill.timing import duration
from svdistill.training.config import OBJECT

MOST_NAMED: Final = 4  # networks in a title
FEW: Final = 3  # runs that are shown one by one beside their comparison


def contents_of(runs: Sequence[Run], data: str | None) -> Contents:
    """Gather what the page of some runs shows.

    Args:
        runs: at least one.
        data: where the images are now, for runs that do not find theirs.

    Raises:
        RunError: a damaged run.
    """
    comparisons = compare(runs)
    taught = [entry for entry in comparisons if any(row.is_taught for row in entry.methods)]
    few = _few(runs, comparisons)
    contents = Contents(
        outcome=[outcome(run) for run in few],
        clipping=clipping_section(taught),
        spectra=spectra_section(taught, data),
        images=[Facts(f"{run.pair}, {run.row}", image_facts(run)) for run in few],
        details=[row for entry in comparisons for row in configurations(entry)],
        machines=machines(runs),
        deviations=[
            deviation_table(entry, deviations(entry)) for entry in comparisons if entry.is_of_seed
        ],
        networks=network_deviations(comparisons),
        of_seed=any(entry.is_of_seed for entry in comparisons),
        run_count=len(runs),
    )
    if len(runs) == 1:
        return _of_one(runs[0], contents)
    return _of_several(runs, comparisons, contents)


def _few(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[Run]:
    """The run of a page of one; the taught students of others, where they are few, a row each."""
    if len(runs) == 1:
        return list(runs)
    taught = [row.runs for entry in comparisons for row in entry.methods if row.is_taught]
    return [row[0] for row in taught] if sum(map(len, taught)) == len(taught) <= FEW else []


def _of_one(run: Run, contents: Contents) -> Contents:
    name = run.pair if run.summary.network == OBJECT else run.summary.network
    kind = "Distillation" if run.is_distilled else "Training"
    teacher = teacher_network(run) or "its teacher"
    how = "Trained alone"
    if run.is_distilled:
        how = f"Learnt from {teacher} by {loss_name(run.config)}"
    epochs = f"{run.summary.epochs} epoch{'' if run.summary.epochs == 1 else 's'}"
    return replace(
        contents,
        title=f"{kind} report: {name}",
        lead=f"{how} in {epochs} on {dataset_name(run.config)}. Training and "
        f"evaluation took {duration(run.summary.seconds)}.",
        is_one_student=run.is_distilled,
        curves=[Part(run.pair, (run_curves(run),))],
    )


def _of_several(
    runs: Sequence[Run], comparisons: Sequence[Comparison], contents: Contents
) -> Contents:
    vectors, steps = vectors_section(comparisons), map(step_time_table, comparisons)
    return replace(
        contents,
        title=f"Distillation report: {_pairs(comparisons)}",
        lead=_lead(runs, comparisons),
        summary=[headline(comparison) for comparison in comparisons],
        accuracy=[
            AccuracyEntry(accuracy_table(comparison), accuracy_note(comparison))
            for comparison in comparisons
        ],
        curves=curves_section(comparisons),
        # The seed has a figure of them, so that its networks' pages say why there is none here.
        vectors=[part for part in vectors if part.figures or contents.of_seed],
        cost=cost_section(comparisons),
        steps=[table for table in steps if table is not None],
    )


def _lead(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """What was compared, on what data, and how often."""
    data = _listed(comparison.data for comparison in comparisons)
    rows = [row for comparison in comparisons for row in comparison.methods]
    kinds = {
        "teachers": any(row.is_teacher for row in rows),
        "students alone": any(row.is_alone for row in rows),
        "taught students": any(row.is_taught for row in rows),
    }
    seeds = max(len(set(row.seeds)) for row in rows)
    return (
        f"{len(runs)} runs on {data}: {_listed(kind for kind, there in kinds.items() if there)}, "
        f"with up to {seeds} seed{'' if seeds == 1 else 's'}."
    )


def _pairs(comparisons: Sequence[Comparison]) -> str:
    pairs = dict.fromkeys(entry.pair for entry in comparisons)
    return _listed(pairs) if len(pairs) <= MOST_NAMED else f"{len(pairs)} networks"


def _listed(names: Iterable[str]) -> str:
    """Names, each once, as in a sentence."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last
