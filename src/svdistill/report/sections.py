"""The sections of the page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from svdistill.common import SVDistillError
from svdistill.config import OBJECT
from svdistill.losses import reads
from svdistill.report.comparison import Comparison, MethodRuns, method_results
from svdistill.report.cost import accuracy_against_cost, clipping_curves
from svdistill.report.curves import accuracy_curves
from svdistill.report.figure import LINE_STYLES, Figure
from svdistill.report.maps import (
    chosen_pairs,
    compares_channels,
    pairs_table,
    run_pairs,
    tapped_maps,
)
from svdistill.report.rebuilding import Missing, measure_latencies
from svdistill.report.runs import Run, named_teacher, teacher_among
from svdistill.report.spectra import Analysis, analyse, maps_figure, spectra_figure
from svdistill.report.tables import Cell, Heading, HTMLTable, number_cell
from svdistill.report.vectors import number_of_vectors
from svdistill.taps import PairedTaps, TapPairs


@dataclass(frozen=True)
class Part:
    """What a section shows of one comparison, or of several on the same data.

    Attributes:
        title: of which.
        figures: those that can be drawn.
        missing: a sentence for each thing that cannot be shown, and why.
        table: shown above the figures.
    """

    title: str
    figures: tuple[Figure, ...] = ()
    missing: tuple[str, ...] = ()
    table: HTMLTable | None = None


def part_of(title: str, figure: Figure | None, otherwise: str) -> Part:
    """A figure, or the sentence that says why there is none."""
    return Part(title, missing=(otherwise,)) if figure is None else Part(title, (figure,))


def curves_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Test accuracy by epoch, some rows in each figure, the best first."""
    parts = []
    for comparison in comparisons:
        drawn = (accuracy_curves(runs) for runs in _some_rows(comparison))
        parts.append(Part(comparison.title, tuple(figure for figure in drawn if figure), ()))
    return parts


def vectors_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Accuracy by the number of vectors, all pairs on a data set in one figure."""
    otherwise = (
        "Not drawn: no method was trained with two numbers of vectors k or more, beside a student "
        "alone that was trained alike."
    )
    parts = [
        part_of(data, number_of_vectors(runs), otherwise)
        for data, runs in _by_data(comparisons).items()
    ]
    drawn = [part for part in parts if part.figures]
    return drawn or parts[:1]  # the reason is the same for all


def cost_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Accuracy against FLOPs, parameters and latency, all pairs on a data set in one figure."""
    parts = []
    for data, runs in _by_data(comparisons).items():
        latencies = measure_latencies(runs)
        figure = accuracy_against_cost(runs, latencies.networks)
        parts.append(Part(data, () if figure is None else (figure,), latencies.left_out))
    return parts


def clipping_section(comparisons: Sequence[Comparison]) -> list[Part]:
    """Gradient norms by epoch, and how often singular values were too close for the gradient."""
    parts = []
    for comparison in comparisons:
        figure = clipping_curves(comparison.runs)
        missing = [] if figure else ["Not drawn: no run recorded the gradients of both tasks."]
        svd = [run for run in comparison.runs if reads(run.config.get("loss", ""), "num_vectors")]
        if svd and all(record.svd_close is None for run in svd for record in run.records):
            missing.append("How often two singular values were close was not recorded.")
        parts.append(Part(comparison.title, (figure,) if figure else (), tuple(missing)))
    return parts


def _some_rows(comparison: Comparison) -> list[list[Run]]:
    """The runs of each figure: teacher, student alone, and as many taught rows as stay apart."""
    own = [method for method in comparison.methods if method.is_teacher or method.is_alone]
    taught = [method for method in comparison.students if not method.is_alone]
    taught.sort(key=lambda method: -statistics.fmean(method.last))
    places = range(0, max(len(taught), 1), len(LINE_STYLES))
    return [
        [run for method in (*own, *taught[at : at + len(LINE_STYLES)]) for run in method.runs]
        for at in places
    ]


def _by_data(comparisons: Sequence[Comparison]) -> dict[str, list[Run]]:
    """The runs of each data set, each once: a teacher may be lent to two pairs."""
    groups: dict[str, dict[str, Run]] = {}
    for comparison in comparisons:
        group = groups.setdefault(comparison.data, {})
        group.update((str(run.path), run) for run in comparison.runs)
    return {data: list(group.values()) for data, group in groups.items()}


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


# What differs between the seeds of a row, or says nothing of how it was trained.
PLACES = ("output", "seed", "resume")

RUN_HEADINGS = ("seed", "last epoch %", "best epoch %", "best epoch", "epochs", "seconds")


@dataclass(frozen=True)
class Configuration:
    """The runs of a row and how to make them again.

    Attributes:
        title: network and method.
        runs: a row for each run.
        options: YAML for `--config`, of the first run, without its place and seed.
        given: what it was given in Python, which no option makes again.
    """

    title: str
    runs: HTMLTable
    options: str
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A machine with its software, as runs recorded it.

    Attributes:
        facts: name and value.
        runs: how many were made on it.
    """

    facts: tuple[tuple[str, str], ...]
    runs: int


def configurations(comparison: Comparison) -> list[Configuration]:
    """How each row of a comparison was made."""
    return [_configuration(comparison.pair, method) for method in comparison.methods]


def machines(runs: Sequence[Run]) -> list[Machine]:
    """The machines and versions that the runs were made with, each once."""
    counts: dict[str, int] = {}
    for run in runs:
        facts = {
            name: value for name, value in run.environment.items() if "fingerprint" not in name
        }
        text = json.dumps(facts)
        counts[text] = counts.get(text, 0) + 1
    return [Machine(tuple(_facts(json.loads(text))), count) for text, count in counts.items()]


def _configuration(pair: str, method: MethodRuns) -> Configuration:
    options = {name: value for name, value in method.runs[0].config.items() if name not in PLACES}
    return Configuration(
        title=f"{pair}, {method.name}",
        runs=HTMLTable(
            title=f"{pair}, {method.name}",
            caption="Runs, and what came out",
            headings=(Heading("run", numeric=False), *map(Heading, RUN_HEADINGS)),
            rows=tuple(_run_row(run) for run in method.runs),
        ),
        options=yaml.safe_dump(options, sort_keys=False),
        given=tuple(name for name in ("network", "teacher", "data") if options.get(name) == OBJECT),
    )


def _run_row(run: Run) -> tuple[Cell, ...]:
    summary = run.summary
    return (
        Cell(str(run.path)),
        number_cell(summary.seed, "{}"),
        number_cell(summary.last_accuracy),
        number_cell(summary.best_accuracy),
        number_cell(summary.best_epoch + 1, "{}"),
        number_cell(summary.epochs, "{}"),
        number_cell(summary.seconds, "{:,.0f}"),
    )


def _facts(environment: dict[str, object]) -> list[tuple[str, str]]:
    """An environment, with its packages each on its own."""
    facts = []
    for name, value in environment.items():
        if isinstance(value, dict):
            facts += [(str(package), str(version)) for package, version in value.items()]
        else:
            facts.append((name, "none" if value is None else str(value)))
    return facts
