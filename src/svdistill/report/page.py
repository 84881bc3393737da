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

from svdistill.common import ArgumentError, RunError, Table, duration, write_atomically
from svdistill.config import OBJECT
from svdistill.report.accuracy import Headline, accuracy_table, headline, step_time_table
from svdistill.report.comparison import Comparison, compare
from svdistill.report.curves import clipping_section, curves_section, run_curves
from svdistill.report.details import (
    Configuration,
    Facts,
    Machine,
    configurations,
    deviation_table,
    image_facts,
    machines,
    network_deviations,
)
from svdistill.report.figure import Section
from svdistill.report.outcome import Outcome, outcome
from svdistill.report.runs import Run, dataset_name, find_runs, loss_name, teacher_network
from svdistill.report.taps import spectra_section
from svdistill.report.tradeoffs import cost_section, vectors_section

# The headings of all sections in their order, by the field of `Contents` that each shows.
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

MOST_NAMED: Final = 4  # pairs of networks in a title

FEW: Final = 3  # distilled runs that are shown one by one beside their comparison


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a page. A section without contents is left out.

    Attributes:
        title, lead: of the page.
        run_count: number of runs.
        is_of_paper: whether any run trained one of the paper's networks.
        is_one_student: whether the page shows one distilled run, without a student alone.
        outcome: of each of a few runs.
        summary: the headline of each comparison.
        accuracy: a table for each comparison.
        curves, vectors, cost, clipping, spectra: their figures.
        steps: tables of the share of step time.
        images: the images of each of a few runs.
        details: the configurations of all rows.
        machines: on which the runs were made.
        deviations: from the paper, of comparisons of its networks.
        networks: how the sizes of these networks differ from the paper's table.
    """

    title: str = ""
    lead: str = ""
    run_count: int
    is_of_paper: bool
    is_one_student: bool = False
    outcome: Sequence[Outcome] = ()
    summary: Sequence[Headline] = ()
    accuracy: Sequence[Table] = ()
    curves: Sequence[Section] = ()
    vectors: Sequence[Section] = ()
    cost: Sequence[Section] = ()
    steps: Sequence[Table] = ()
    clipping: Sequence[Section] = ()
    spectra: Sequence[Section] = ()
    images: Sequence[Facts] = ()
    details: Sequence[Configuration] = ()
    machines: Sequence[Machine] = ()
    deviations: Sequence[Table] = ()
    networks: dict[str, str]

    @property
    def sections(self) -> dict[str, str]:
        """Names and headings of the sections that the page has."""
        return {name: heading for name, heading in SECTIONS.items() if getattr(self, name)}


def page_contents(comparison: Comparison, data: str | None) -> Contents:
    """Compute all that a page shows.

    Args:
        comparison: of at least one run.
        data: where the images are now, if runs do not find theirs.

    Raises:
        RunError: a damaged run.
    """
    runs, pairs = comparison.runs, comparison.pairs
    distilled = [pair for pair in pairs if pair.distilled]
    few = _few_runs(comparison)
    contents = Contents(
        run_count=len(runs),
        is_of_paper=any(pair.is_of_paper for pair in pairs),
        outcome=[outcome(run) for run in few],
        clipping=clipping_section(distilled),
        spectra=spectra_section(distilled, data),
        images=[image_facts(run) for run in few],
        details=[row for pair in pairs for row in configurations(pair)],
        machines=machines(runs),
        deviations=[deviation_table(pair) for pair in pairs if pair.is_of_paper],
        networks=network_deviations(runs),
    )
    if len(runs) == 1:
        return _contents_of_one(runs[0], contents)
    return _contents_of_several(comparison, contents)


def _few_runs(comparison: Comparison) -> list[Run]:
    """The only run; or the distilled runs, if there are few and each is a row."""
    if len(comparison.runs) == 1:
        return list(comparison.runs)
    rows = [method.runs for pair in comparison.pairs for method in pair.distilled]
    return [row[0] for row in rows] if sum(map(len, rows)) == len(rows) <= FEW else []


def _contents_of_one(run: Run, contents: Contents) -> Contents:
    name = run.pair if run.summary.network == OBJECT else run.summary.network
    kind = "Distillation" if run.is_distilled else "Training"
    how = "Trained alone"
    if run.is_distilled:
        how = f"Distilled from {teacher_network(run) or 'its teacher'} by {loss_name(run.config)}"
    epochs = f"{run.summary.epochs} epoch{'' if run.summary.epochs == 1 else 's'}"
    return replace(
        contents,
        title=f"{kind} report: {name}",
        lead=f"{how} in {epochs} on {dataset_name(run.config)}. Training and "
        f"evaluation took {duration(run.summary.seconds)}.",
        is_one_student=run.is_distilled,
        curves=[Section(run.pair, (run_curves(run),))],
    )


def _contents_of_several(comparison: Comparison, contents: Contents) -> Contents:
    pairs = comparison.pairs
    vectors, steps = vectors_section(comparison), map(step_time_table, pairs)
    return replace(
        contents,
        title=f"Distillation report: {_pair_names(comparison)}",
        lead=_lead(comparison),
        summary=[headline(pair) for pair in pairs],
        accuracy=[accuracy_table(pair) for pair in pairs],
        curves=curves_section(pairs),
        # The paper has this figure, so pages of its networks say why it is missing.
        vectors=[part for part in vectors if part.figures or contents.is_of_paper],
        cost=cost_section(comparison),
        steps=[table for table in steps if table is not None],
    )


def _lead(comparison: Comparison) -> str:
    """What was compared, on which data, with how many seeds."""
    rows = [row for pair in comparison.pairs for row in pair.methods]
    kinds = {
        "teachers": any(row.is_teacher for row in rows),
        "students alone": any(row.is_alone for row in rows),
        "distilled students": any(row.is_distilled for row in rows),
    }
    seeds = max(len(set(row.seeds)) for row in rows)
    return (
        f"{len(comparison.runs)} runs on {_listed(pair.data for pair in comparison.pairs)}: "
        f"{_listed(kind for kind, there in kinds.items() if there)}, "
        f"with up to {seeds} seed{'' if seeds == 1 else 's'}."
    )


def _pair_names(comparison: Comparison) -> str:
    names = dict.fromkeys(pair.pair for pair in comparison.pairs)
    return _listed(names) if len(names) <= MOST_NAMED else f"{len(names)} networks"


def _listed(names: Iterable[str]) -> str:
    """Names as an enumeration, each once."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def write_report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    data: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write finished runs as one self-contained HTML page.

    Nothing is trained or downloaded, and no code of the user's own is run. If the weights of a
    student, its teacher and the images are available, the page shows their feature maps. It says
    what is missing.

    Args:
        runs: run directories, or folders that contain some at any depth.
        output: the page; a file of this name is replaced.
        data: where the images are now, if runs do not find theirs, such as `parquet:PATH`.
        console: where progress goes; nowhere by default.

    Returns:
        The page's path.

    Raises:
        ArgumentError: data that does not exist.
        RunError: a path without finished runs, a damaged run, or a page that cannot be written.
    """
    path = Path(output)
    _require_writable(path)
    _require_images(data)
    console = console or Console(quiet=True)
    with console.status("reading runs") as status:
        comparison = compare(find_runs(runs))
        status.update("drawing figures, timing networks, reading feature maps")
        page = _render(page_contents(comparison, data))
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
    """Raise `RunError` before the work rather than after it."""
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
    """Raise `ArgumentError` if the given images do not exist."""
    scheme, _, place = (data or "digits").partition(":")
    if scheme not in ("digits", "hub") and not (place and Path(place).expanduser().exists()):
        raise ArgumentError(
            "data",
            expected="where images lie, such as parquet:PATH",
            got=repr(data),
            remedy="check the path, or leave it out",
        )
