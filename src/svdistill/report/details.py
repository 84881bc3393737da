"""How runs were made: configurations, machines, images, and deviations from the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import yaml

from svdistill.common import Cell, SVDistillError, Table, columns, number_cell, text_table
from svdistill.config import OBJECT
from svdistill.networks import network_names, published_size
from svdistill.report.comparison import MethodResult, PairComparison
from svdistill.report.networks import Missing, card_of
from svdistill.report.protocol import AUGMENTATIONS
from svdistill.report.runs import Run, class_choice
from svdistill.runs import WeightsCard

MOST_NAMED: Final = 12  # classes that are all named

# Options that differ between the seeds of a row, or do not affect training.
LEFT_OUT: Final = ("output", "seed", "resume")


@dataclass(frozen=True)
class Facts:
    """Names and values under a title."""

    title: str
    facts: tuple[tuple[str, str], ...]


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
        number_cell(summary.best_epoch + 1, "{}"),
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


def image_facts(run: Run) -> Facts:
    """The images that a run was trained on: source, classes, size and augmentation."""
    try:
        card: WeightsCard | None = card_of(run)
    except (Missing, SVDistillError):
        card = None
    own = run.config["data"] == OBJECT
    augmentation = AUGMENTATIONS[run.config["augmentation"]]
    facts = [
        ("images", "given in Python" if own else str(run.config["data"])),
        ("of these", "" if class_choice(run.config) == "all classes" else class_choice(run.config)),
        ("trained on", _trained_on(run)),
        ("classes", _classes(run, card)),
        ("size", _size(run, card)),
        ("mean of the channels", "not known" if card is None else _digits(card.mean)),
        ("their standard deviation", "not known" if card is None else _digits(card.std)),
        ("augmentation", augmentation + (", unless they came prepared" if own else "")),
    ]
    return Facts(f"{run.pair}, {run.row}", tuple(fact for fact in facts if fact[1]))


def _trained_on(run: Run) -> str:
    config = run.config
    size, held_out, more = (config.get(n) for n in ("train_size", "dev_fraction", "unlabelled"))
    parts = [f"{size:,} of the training images" if size else "all training images"]
    if held_out:
        parts.append(f"{held_out:.0%} of them held out to choose the best epoch")
    if more:
        rest = "those that are left" if more == "rest" else more
        parts.append(f"and without their labels on {rest}")
    return "" if config["data"] == OBJECT else ", ".join(parts)


def _classes(run: Run, card: WeightsCard | None) -> str:
    if card is None:
        return str(run.summary.num_classes)
    names = card.class_names
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"{len(names):,}: {', '.join(names[:MOST_NAMED])}{more}"


def _size(run: Run, card: WeightsCard | None) -> str:
    side = run.summary.image_size if card is None else card.image_size
    return f"{side}x{side} pixels"


def _digits(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)
