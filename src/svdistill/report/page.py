"""One HTML page of runs, as a file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

from rich.console import Console

from svdistill.common import ArgumentError, RunError, duration, write_atomically
from svdistill.config import OBJECT
from svdistill.report.accuracy import (
    Headline,
    accuracy_note,
    accuracy_table,
    headline,
    step_time_table,
)
from svdistill.report.comparison import Comparison, compare
from svdistill.report.curves import run_curves
from svdistill.report.deviations import deviation_table, deviations, network_deviations
from svdistill.report.outcome import Outcome, outcome
from svdistill.report.rebuilding import image_facts
from svdistill.report.runs import Run, dataset_name, find_runs, loss_name, teacher_network
from svdistill.report.sections import (
    Configuration,
    Machine,
    Part,
    clipping_section,
    configurations,
    cost_section,
    curves_section,
    machines,
    spectra_section,
    vectors_section,
)
from svdistill.report.tables import HTMLTable

# Every section in its order, by the field of `Contents` that it shows.
SECTIONS: Final = {
    "outcome": "Outcome",
    "summary": "Summary",
    "accuracy": "Accuracy",
    "curves": "Training curves",
    "vectors": "Number of vectors",
    "cost": "Accuracy against cost",
    "steps": "Share of step time",
    "clipping": "Clipping",
    "spectra": "Taps, spectra and DFVs",
    "images": "Images",
    "details": "Details",
}


@dataclass(frozen=True)
class AccuracyEntry:
    """A comparison's accuracies, and how to read them."""

    table: HTMLTable
    note: str


@dataclass(frozen=True)
class Facts:
    """Names and values, of what the title says."""

    title: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a page shows. A section with nothing in it is left out.

    Attributes:
        title, lead: of the page.
        outcome: what each of a few runs came to.
        is_one_student: whether it is of one run, of which it is not known what its teacher brought.
        summary: what each comparison comes down to.
        accuracy: a table for each.
        curves, vectors, cost, clipping, spectra: their figures.
        steps: tables of the share of step time.
        images: facts of the images that each of a few runs trained on.
        details: what makes the runs again.
        machines: that they were made on.
        deviations: where runs of the paper's networks differ from the paper.
        networks: how these networks differ from its table.
        of_seed: whether any of its networks are among the runs.
        run_count: how many there are.
    """

    title: str = ""
    lead: str = ""
    outcome: Sequence[Outcome] = ()
    is_one_student: bool = False
    summary: Sequence[Headline] = ()
    accuracy: Sequence[AccuracyEntry] = ()
    curves: Sequence[Part] = ()
    vectors: Sequence[Part] = ()
    cost: Sequence[Part] = ()
    steps: Sequence[HTMLTable] = ()
    clipping: Sequence[Part] = ()
    spectra: Sequence[Part] = ()
    images: Sequence[Facts] = ()
    details: Sequence[Configuration] = ()
    machines: Sequence[Machine] = ()
    deviations: Sequence[HTMLTable] = ()
    networks: dict[str, str]
    of_seed: bool
    run_count: int

    @property
    def sections(self) -> dict[str, str]:
        """Names and headings of those that the page has."""
        return {name: heading for name, heading in SECTIONS.items() if getattr(self, name)}


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
        # The paper has a figure of them, so that its networks' pages say why there is none here.
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


def write_report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    data: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write finished runs as one HTML page that holds all it shows.

    Nothing is trained. Where weights of a student and of its teacher are there, and the images,
    their feature maps are looked at. Nothing is downloaded, and no code of the runs' own is run.
    The page says what is missing.

    Args:
        runs: run directories, or folders that hold some at any depth.
        output: the page; a file of this name is replaced.
        data: where the images are now, for runs that do not find theirs, such as `parquet:PATH`.
        console: where progress goes; nowhere by default.

    Returns:
        The page's path.

    Raises:
        ArgumentError: data that is nowhere.
        RunError: a path without finished runs, a damaged run, or a page that cannot be written.
    """
    path = Path(output)
    _require_writable(path)
    _require_images(data)
    console = console or Console(quiet=True)
    with console.status("reading runs") as status:
        found = find_runs(runs)
        status.update("drawing figures, timing networks, looking at feature maps")
        page = _render(contents_of(found, data))
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _render(contents: Contents) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("svdistill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = files("svdistill.report") / "templates"
    script = "\n" + (templates / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        page=contents,
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        version=version("svdistill"),
    )


def _require_writable(path: Path) -> None:
    """Raise `RunError` now rather than after the work."""
    folder = path.parent
    if path.is_dir():
        got, remedy = "a directory", "name a file, such as report.html"
    elif not folder.is_dir():
        got, remedy = f"no directory {folder}", "make it, or choose another --output"
    elif not os.access(folder, os.W_OK):
        got, remedy = f"a directory that is not writable, {folder}", "choose another --output"
    else:
        return
    raise RunError(str(path), expected="a file that can be written", got=got, remedy=remedy)


def _require_images(data: str | None) -> None:
    """Raise `ArgumentError` where a person says that images are where none are."""
    scheme, _, place = (data or "digits").partition(":")
    if scheme not in ("digits", "hub") and not (place and Path(place).expanduser().exists()):
        raise ArgumentError(
            "data",
            expected="where images lie, such as parquet:PATH",
            got=repr(data),
            remedy="check the path, or leave it out",
        )
