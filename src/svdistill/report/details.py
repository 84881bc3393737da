"""What a reader needs to make the runs again: configurations, machines and versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from svdistill.report.comparisons import Comparison, MethodRuns
from svdistill.report.html_table import Cell, Heading, HTMLTable, number_cell
from svdistill.report.runs import Run
from svdistill.training.config import OBJECT

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
