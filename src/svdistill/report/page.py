"""The report as one HTML page: collect its contents from finished runs, and write the file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from rich.console import Console

from svdistill.common import (
    Cell,
    RunError,
    Table,
    columns,
    counted,
    number_cell,
    text_table,
    write_text,
)
from svdistill.config import OBJECT
from svdistill.networks import network_names, published_size
from svdistill.report.comparison import Comparison, PairComparison, compare
from svdistill.report.curves import curves_section, gradients_section, vectors_section
from svdistill.report.figure import Section
from svdistill.report.methods import MethodResult
from svdistill.report.predictions import predictions_section
from svdistill.report.runs import Run, dataset_name, find_runs, loss_name, teacher_network
from svdistill.report.summary import accuracy_table, cost_table, headline

if TYPE_CHECKING:
    from jinja2 import Environment

# The headings of the page's sections in order, by the key of `page_contents` that each one shows.
SECTIONS: Final = {
    "summary": "Summary",
    "accuracy": "Accuracy and costs",
    "curves": "Training curves",
    "predictions": "Predictions",
    "vectors": "Number of vectors",
    "gradients": "Gradients",
    "details": "Details",
}

MOST_NAMED: Final = 4  # the largest number of pairs of networks that a title names

# Options that a row's configuration leaves out: they differ between its runs, or do not affect
# training.
LEFT_OUT: Final = ("output", "seed", "resume")

# Pairs of a name and a value.
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Configuration:
    """The runs of one row of a comparison, and the options that reproduce them.

    Attributes:
        runs: a table with a row for each run.
        options: the first run's options as YAML for `--config`, without output and seed.
        given: names of arguments that were given as Python objects, which options cannot reproduce.
    """

    runs: Table
    options: str
    given: tuple[str, ...]


def page_contents(comparison: Comparison) -> dict[str, Any]:
    """Collect all that the page shows of one or more runs; empty sections are left out."""
    runs, pairs = comparison.runs, comparison.pairs
    distilled = any(run.is_distilled for run in runs)
    single = len(runs) == 1
    kind = "Distillation" if distilled or not single else "Training"
    contents = {
        "title": f"{kind} report: {_pair_names(comparison)}",
        "lead": _lead_of_one(runs[0]) if single else _lead(comparison),
        "run_count": len(runs),
        "is_of_paper": any(pair.is_of_paper for pair in pairs),
        "summary": [headline(pair) for pair in pairs],
        "accuracy": [Section(pair.title, _result_tables(pair)) for pair in pairs],
        "curves": curves_section(pairs),
        "predictions": predictions_section(pairs),
        "vectors": vectors_section(pairs),
        "gradients": gradients_section(pairs),
        "details": [row for pair in pairs for row in configurations(pair)],
        "machines": machines(runs),
        "deviations": [deviation_table(pair) for pair in pairs if pair.is_of_paper],
        "networks": network_deviations(runs),
    }
    sections = {name: heading for name, heading in SECTIONS.items() if contents[name]}
    return {**contents, "sections": sections}


def _result_tables(pair: PairComparison) -> tuple[Table, ...]:
    """The table of costs, preceded by the table of accuracies if there is more than one run."""
    costs = cost_table(pair)
    return (costs,) if len(pair.runs) == 1 else (accuracy_table(pair), costs)


def _lead_of_one(run: Run) -> str:
    how = "Trained alone"
    if run.is_distilled:
        how = f"Distilled from {teacher_network(run) or 'its teacher'} by {loss_name(run.config)}"
    epochs = counted(run.summary.epochs, "epoch")
    images = f", {run.test_images:,} test images" if run.test_images else ""
    return f"{how} in {epochs} on {dataset_name(run.config)}{images}."


def _lead(comparison: Comparison) -> str:
    """A sentence on what was compared, on which data, with how many seeds."""
    rows = [row for pair in comparison.pairs for row in pair.methods]
    kinds = {
        "teachers": any(row.is_teacher for row in rows),
        "students alone": any(row.is_alone for row in rows),
        "distilled students": any(row.is_distilled for row in rows),
    }
    seeds = max(len(set(row.seeds)) for row in rows)
    per_row = "one seed each" if seeds == 1 else f"up to {seeds} seeds"
    return (
        f"{len(comparison.runs)} runs on {_listed(pair.data for pair in comparison.pairs)}: "
        f"{_listed(kind for kind, there in kinds.items() if there)}, "
        f"with {per_row}."
    )


def _pair_names(comparison: Comparison) -> str:
    names = dict.fromkeys(pair.pair for pair in comparison.pairs)
    return _listed(names) if len(names) <= MOST_NAMED else f"{len(names)} networks"


def _listed(names: Iterable[str]) -> str:
    """Join names to an enumeration such as "a, b and c", each name once."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def configurations(comparison: PairComparison) -> list[Configuration]:
    """The configuration of each row of a comparison."""
    return [_configuration(comparison.pair, method) for method in comparison.methods]


def _configuration(pair: str, method: MethodResult) -> Configuration:
    options = {name: value for name, value in method.config.items() if name not in LEFT_OUT}
    headings = ("seed", "last epoch %", "best epoch %", "best epoch", "epochs", "seconds")
    runs = Table(
        title=f"{pair}, {method.name}",
        caption="Runs and their results",
        columns=columns("run", *headings),
        rows=tuple(_run_row(run) for run in method.runs),
    )
    given = tuple(name for name in ("network", "teacher", "data") if options.get(name) == OBJECT)
    return Configuration(runs, yaml.safe_dump(options, sort_keys=False), given)


def _run_row(run: Run) -> tuple[Cell, ...]:
    summary = run.summary
    return (
        Cell(str(run.path)),
        number_cell(summary.seed, "{}"),
        number_cell(summary.last_accuracy),
        number_cell(summary.best_accuracy),
        number_cell(summary.best_epoch, "{}"),
        number_cell(summary.epochs, "{}"),
        number_cell(summary.seconds, "{:,.0f}"),
    )


def machines(runs: Iterable[Run]) -> Counter[Facts]:
    """Count the runs for each combination of machine and versions."""
    return Counter(tuple(_facts(run.environment)) for run in runs)


def _facts(environment: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The entries of a run's environment as text, one for each package, without its contents."""
    for name, value in environment.items():
        if isinstance(value, dict):
            yield from ((str(package), str(number)) for package, number in value.items())
        elif name != "loss" and "fingerprint" not in name:
            yield name, "none" if value is None else str(value)


def deviation_table(comparison: PairComparison) -> Table:
    """A table of the settings in which a comparison's runs differ from the paper's protocol."""
    return text_table(
        comparison.title,
        ("setting", "paper", "here"),
        [(one.setting, one.paper, one.here) for one in comparison.deviations],
        caption="The paper's protocol, and these runs",
    )


def network_deviations(runs: Sequence[Run]) -> dict[str, str]:
    """For the paper's networks that `runs` trained, how their sizes differ from the paper's table.

    Sizes are those at full width; networks without a difference are left out.
    """
    used = {run.summary.network for run in runs}
    noted = {name: published_size(name).deviation for name in network_names() if name in used}
    return {name: note for name, note in noted.items() if note}


def write_report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    console: Console | None = None,
) -> Path:
    """Write finished runs as one self-contained HTML page.

    Nothing is trained, timed or downloaded, and no code of the user's own is run: the page shows
    what the runs recorded.

    Args:
        runs: run directories, or folders that contain some at any depth.
        output: the file to write; an existing file is replaced.
        console: where progress is printed; nothing is printed by default.

    Returns:
        The page's path.

    Raises:
        RunError: a path contains no finished runs, a run is damaged, or the page cannot be written.
    """
    path = Path(output)
    _require_writable(path)
    console = console or Console(quiet=True)
    with console.status("reading runs, drawing figures"):
        page = _render(page_contents(compare(find_runs(runs))))
    write_text(path, page)
    return path


def templates() -> Environment:
    """The Jinja environment that loads the page's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("svdistill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(contents: dict[str, Any]) -> str:
    folder = files("svdistill.report") / "templates"
    script = "\n" + (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            page=contents,
            style=(folder / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=f"sha256-{digest}",
            version=version("svdistill"),
        )
    )


def _require_writable(path: Path) -> None:
    """Raise `RunError` if the page cannot be written, before any work is done for it."""
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
