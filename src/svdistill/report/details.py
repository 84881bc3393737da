"""How runs were made: configurations, machines, and deviations from the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import yaml

from svdistill.common import Cell, Table, columns, number_cell, text_table
from svdistill.config import OBJECT
from svdistill.networks import network_names, published_size
from svdistill.report.comparison import PairComparison
from svdistill.report.methods import MethodResult
from svdistill.report.runs import Run

# Options that differ between the seeds of a row, or do not affect training.
LEFT_OUT: Final = ("output", "seed", "resume")


@dataclass(frozen=True)
class Configuration:
    """The runs of a row, and the options that reproduce them.

    Attributes:
        runs: a row for each run.
        options: YAML for `--config`, of the first run, without its output and seed.
        given: the arguments that were Python objects, which no option reproduces.
    """

    runs: Table
    options: str
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A machine with its software, as runs recorded it.

    Attributes:
        facts: names and values.
        runs: number of runs made on it.
    """

    facts: tuple[tuple[str, str], ...]
    runs: int


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


def machines(runs: Sequence[Run]) -> list[Machine]:
    """The machines and versions of the runs, each once."""
    counts: dict[str, int] = {}
    for run in runs:
        facts = {
            name: value for name, value in run.environment.items() if "fingerprint" not in name
        }
        text = json.dumps(facts)
        counts[text] = counts.get(text, 0) + 1
    return [Machine(tuple(_facts(json.loads(text))), count) for text, count in counts.items()]


def _facts(environment: dict[str, object]) -> list[tuple[str, str]]:
    """The entries of an environment, with one for each package."""
    facts = []
    for name, value in environment.items():
        if isinstance(value, dict):
            facts += [(str(package), str(version)) for package, version in value.items()]
        else:
            facts.append((name, "none" if value is None else str(value)))
    return facts


def deviation_table(comparison: PairComparison) -> Table:
    """The deviations of a comparison from the paper as a table."""
    table = text_table(
        comparison.title,
        ("setting", "paper", "here"),
        [(one.setting, one.paper, one.here) for one in comparison.deviations],
    )
    return replace(table, caption="The paper's protocol, and these runs")


def network_deviations(runs: Sequence[Run]) -> dict[str, str]:
    """How the sizes of the paper's networks differ from those in its table, at full width."""
    used = {run.summary.network for run in runs}
    noted = {name: published_size(name).deviation for name in network_names() if name in used}
    return {name: note for name, note in noted.items() if note}
