"""Finished runs as one page: a single HTML file that opens from disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from svdistill.errors import ArgumentError, RunError
from svdistill.files import write_atomically
from svdistill.report.accuracy_tables import accuracy_note, accuracy_table
from svdistill.report.comparisons import Comparison, compare
from svdistill.report.details import configurations, machines
from svdistill.report.deviations import deviation_table, deviations, network_deviations
from svdistill.report.headlines import headline
from svdistill.report.html_table import HTMLTable
from svdistill.report.runs import Run, find_runs
from svdistill.report.sections import (
    clipping_section,
    cost_section,
    curves_section,
    vectors_section,
)
from svdistill.report.spectra_section import spectra_section
from svdistill.report.step_time_table import step_time_table

SECTIONS: Final = {
    "summary": "Summary",
    "accuracy": "Accuracy",
    "curves": "Training curves",
    "vectors": "Number of vectors",
    "cost": "Accuracy against cost",
    "spectra": "Spectra and DFVs",
    "steps": "Share of step time",
    "clipping": "Clipping",
    "details": "Details",
}


@dataclass(frozen=True)
class AccuracyEntry:
    """A comparison's accuracies, how to read them, and where its runs differ from the paper."""

    table: HTMLTable
    note: str
    deviations: HTMLTable


def write_report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    data: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write finished runs as one HTML page that holds all it shows.

    Nothing is trained. Where weights of a student and of its teacher are there, and the images,
    their feature maps are looked at. The page says what is missing.

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
        comparisons = compare(found)
        status.update("drawing figures, timing networks")
        context = _context(found, comparisons)
        status.update("looking at feature maps")
        context["spectra"] = spectra_section(comparisons, data)
        page = _render(context)
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _context(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the template shows."""
    tables = map(step_time_table, comparisons)
    return {
        "title": f"Distillation report: {_listed(entry.pair for entry in comparisons)}",
        "lead": _lead(runs, comparisons),
        "sections": SECTIONS,
        "headlines": [headline(comparison) for comparison in comparisons],
        "accuracies": [_accuracy_entry(comparison) for comparison in comparisons],
        "curves": curves_section(comparisons),
        "vectors": vectors_section(comparisons),
        "cost": cost_section(comparisons),
        "step_times": [table for table in tables if table is not None],
        "clipping": clipping_section(comparisons),
        "networks": network_deviations(comparisons),
        "configurations": [row for entry in comparisons for row in configurations(entry)],
        "machines": machines(runs),
        "run_count": len(runs),
    }


def _accuracy_entry(comparison: Comparison) -> AccuracyEntry:
    found = deviations(comparison)
    return AccuracyEntry(
        accuracy_table(comparison),
        accuracy_note(comparison, found),
        deviation_table(comparison, found),
    )


def _lead(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """What was compared, on what data, and how often."""
    data = _listed(comparison.data for comparison in comparisons)
    seeds = max((len(set(row.seeds)) for entry in comparisons for row in entry.students), default=0)
    return (
        f"{len(runs)} run{'' if len(runs) == 1 else 's'} on {data}: students trained alone and "
        f"with a teacher, with up to {seeds} seed{'' if seeds == 1 else 's'}."
    )


def _listed(names: Iterable[str]) -> str:
    """Names, each once, as in a sentence."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def _render(context: dict[str, Any]) -> str:
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
        context,
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
