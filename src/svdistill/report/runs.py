"""Finished runs as the report reads them, found in any folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from svdistill.errors import RunError, nearest
from svdistill.networks import network_names
from svdistill.report.network_tables import millions
from svdistill.report.row_names import row_name
from svdistill.training.config import OBJECT
from svdistill.training.epoch_record import EpochRecord
from svdistill.training.run_directory import (
    RunDirectory,
    RunSummary,
    read_environment,
    read_records,
    read_summary,
)
from svdistill.training.stored_config import stored_values

NUMBER: Final = re.compile(r"([0-9]+)")

FAMILIES = {
    "vgg": "VGG",
    "vgg_stride": "VGG_stride",
    "mobilenet": "MobileNet",
    "resnext": "ResNeXt",
}


@dataclass(frozen=True)
class Run:
    """All that a finished run has left but its weights.

    Attributes:
        path: the run directory.
        config: the values of its config.yaml.
        environment: machine and versions, from its environment.json.
        summary: what came out.
        records: its epochs.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: RunSummary
    records: tuple[EpochRecord, ...]

    @property
    def weights(self) -> Path | None:
        """Its network after the last epoch; None where the run was kept without it."""
        path = RunDirectory(self.path).student
        return path if path.exists() else None

    @property
    def pair(self) -> str:
        """The pair of networks it belongs to, as people say it.

        One of the seed's networks is called by its family, teacher or student. One that was given
        as a Python object has no name, and is told from others by its size.
        """
        if self.summary.network == OBJECT:
            return f"own network, {millions(self.summary.parameters, digits=2)} parameters"
        stem = self.summary.network.removesuffix("_teacher").removesuffix("_student")
        return FAMILIES.get(stem, stem)

    @property
    def is_of_seed(self) -> bool:
        """Whether it trained one of the seed's networks."""
        return self.summary.network in network_names()

    @property
    def is_distilled(self) -> bool:
        """Whether it had a transfer loss."""
        return "loss" in self.config

    @property
    def is_teacher(self) -> bool:
        """Whether it trained a network of the seed's that is meant to teach."""
        return self.summary.network.endswith("_teacher") and not self.is_distilled

    @property
    def row(self) -> str:
        """The row of tables and figures it belongs to, see `row_name`."""
        return row_name(self.config)


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read the finished runs at or below some paths; unfinished ones are skipped.

    Args:
        paths: run directories, or folders that hold some at any depth.

    Returns:
        Each run once, sorted by path, in which numbers count as numbers: `k2` is before `k16`.

    Raises:
        RunError: a path that does not exist or holds no finished run, or a damaged run.
    """
    folders = {folder.resolve(): folder for path in paths for folder in _finished(Path(path))}
    return [_read(folder) for folder in sorted(folders.values(), key=_by_numbers)]


def _by_numbers(path: Path) -> list[list[str | int]]:
    """What sorts a path: of each of its names text and numbers in turn."""
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(NUMBER.split(name))]
        for name in path.parts
    ]


def _finished(path: Path) -> list[Path]:
    summaries = [path / "summary.json", *path.rglob("*/summary.json")]
    folders = [file.parent for file in summaries if file.exists()]
    found = [folder for folder in folders if RunDirectory(folder).config.exists()]
    if found:
        return found
    raise RunError(
        str(path),
        expected="a run directory, or a folder of finished runs",
        got=_instead(path),
        remedy=_remedy(path),
    )


def _instead(path: Path) -> str:
    if not path.exists():
        return "nothing"
    return "unfinished runs only" if any(path.rglob("config.yaml")) else "no run"


def _remedy(path: Path) -> str:
    if path.exists():
        return "finish a run with --resume, or give another folder"
    siblings = [folder.name for folder in path.parent.glob("[!.]*") if folder.is_dir()]
    return nearest(path.name, siblings) if siblings else "check the path"


def _read(folder: Path) -> Run:
    run = RunDirectory(folder)
    return Run(
        path=folder,
        config=stored_values(run.config),
        environment=read_environment(run.environment),
        summary=read_summary(folder),
        records=tuple(read_records(folder)),
    )
