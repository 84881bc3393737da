"""A run directory: everything that is known of one run, each file whole or not there."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from svdistill.common import (
    LOCK_NAME,
    Finite,
    RunError,
    from_plain,
    is_temporary,
    locked,
    make_directory,
    read_plain,
    read_text,
    require_unlocked,
    sweep,
    write_atomically,
    write_json,
)
from svdistill.parallel import is_main, size
from svdistill.runs.checkpoint import Checkpoints
from svdistill.runs.records import EpochRecord
from svdistill.runs.stored_config import (
    PLACES,
    RunConfig,
    moved_places,
    numeric_differences,
    numeric_text,
    require_contents,
    require_same,
    stored_values,
    to_yaml,
)

# What environment.json holds.
Fact = str | float | int | bool | None

Facts = dict[str, Fact | dict[str, Fact]]

PACKAGES = ("svdistill", "torch", "numpy", "accelerate", "datasets", "safetensors")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What came out of a finished run. Accuracies are percentages on the test split.

    Attributes:
        directory: the run directory.
        kind: `train` or `distill`.
        network, width: what was trained.
        loss: the transfer loss's name; None where none was used.
        seed: the run's.
        last_accuracy: after the last epoch.
        best_accuracy: after the best epoch, as chosen on the split named by `best_by`.
        best_epoch: counted from 0, over all stages.
        best_by: `dev` or `test`; the best by `test` is an optimistic figure.
        teacher_accuracy: the teacher's on the same images.
        parameters, flops: of the network, the FLOPs (2 x multiply-adds) for one image.
        epochs: over all stages.
        seconds: spent in training and evaluation, over all resumptions.
        num_classes, image_size: of the data, the latter in pixels.
        skipped_steps: those whose gradients overflowed in fp16, so that they changed nothing.
    """

    directory: str
    kind: str
    network: str
    width: Finite
    loss: str | None
    seed: int
    last_accuracy: float
    best_accuracy: float
    best_epoch: int
    best_by: str
    teacher_accuracy: float | None
    parameters: int
    flops: int
    epochs: int
    seconds: Finite
    num_classes: int
    image_size: int
    skipped_steps: int = 0


class RunDirectory:
    """Reads and writes the files of one run. Of several processes the main one writes.

    `config.yaml`, `environment.json`, `metrics.jsonl`, `checkpoint.pt` and the one before it,
    `student.safetensors` (last epoch), `student-best.safetensors`, `tensorboard/`; and once it is
    finished `summary.json` and, where a teacher taught, `before_after.json`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path)
        self.student = self.path / "student.safetensors"
        self.best_student = self.path / "student-best.safetensors"
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.before_after = self.path / "before_after.json"
        self.summary = self.path / "summary.json"
        self.resumed_with = ""  # what `open` found to differ from the environment of the start

    @contextmanager
    def held(
        self, config: RunConfig, data_fingerprint: str, teacher_fingerprint: str = ""
    ) -> Iterator[None]:
        """`open` the directory, and let no other process do so while the block lasts.

        Raises:
            RunError: another process holds it, or see `open`.
        """
        require_unlocked(self.path)
        contents = _contents(data_fingerprint, teacher_fingerprint)
        self._begun(config, contents)  # before anything is written
        make_directory(self.path)
        with locked(self.path):
            self.open(config, data_fingerprint, teacher_fingerprint)
            sweep(self.path)
            yield

    def open(self, config: RunConfig, data_fingerprint: str, teacher_fingerprint: str = "") -> None:
        """Make the directory for a new run, or check that it holds the run to resume.

        A resumption is recorded in the environment, and where images and teacher lie now in the
        configuration.

        Args:
            config: the run's.
            data_fingerprint: `ImageData.fingerprint` of its images.
            teacher_fingerprint: digest of its teacher's weights or knowledge; empty without one.

        Raises:
            RunError: it holds a finished run, another run, files of something else, or cannot be
                written.
        """
        contents = _contents(data_fingerprint, teacher_fingerprint)
        if self._begun(config, contents):
            self._note_resumption(config)
            return
        make_directory(self.path)
        text = to_yaml(config)
        write_atomically(self.config, lambda temporary: temporary.write_text(text))
        write_json(self.environment, {**environment(), **contents})

    def _note_resumption(self, config: RunConfig) -> None:
        """Record what the run goes on with, if it is something else, and where its sources lie."""
        recorded, now = read_environment(self.environment), environment()
        stored, moved = stored_values(self.config), moved_places(config, self.config)
        devices = (str(stored.get("device", "auto")), config.device)
        self.resumed_with = numeric_differences(recorded, now, devices)
        places = (f"{name} {both}" for name, both in moved.items())
        note = "; ".join([numeric_text(now, config.device), *places])
        earlier = recorded.get("resumed", {})
        last = [numeric_text(recorded, devices[0]), *map(str, earlier.values())][-1]
        if not moved and note == last.partition("; ")[0]:
            return  # as before
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        write_json(self.environment, {**recorded, "resumed": {**earlier, when: note}})
        if moved:
            text = yaml.safe_dump(
                {**stored, **{name: getattr(config, name) for name in moved}}, sort_keys=False
            )
            write_atomically(self.config, lambda temporary: temporary.write_text(text))

    def _begun(self, config: RunConfig, contents: dict[str, str]) -> bool:
        """Whether the directory holds the run to resume; raises where it holds something else."""
        if self.summary.exists():
            raise RunError(
                str(self.path),
                expected="a directory without a finished run",
                got="a finished run",
                remedy="choose another --output, or remove the directory if it is not needed",
            )
        if config.resume and self.config.exists():
            if not self.environment.exists() and not self.checkpoints.any():
                require_same(config, self.config)
                return False  # killed between its first two files
            recorded = read_environment(self.environment)
            known = [place for name in contents if name in recorded for place in PLACES[name]]
            require_same(config, self.config, known)
            require_contents(config, self.path, recorded, contents)
            return True
        if self.path.exists() and (not self.path.is_dir() or any(self._of_others())):
            started = self.config.exists()
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="an unfinished run" if started else "something else",
                remedy="continue it with --resume" if started else "choose another --output",
            )
        return False

    def _of_others(self) -> Iterator[Path]:
        """What lies there beside a lock, and beside what a killed process was writing."""
        for path in self.path.iterdir():
            if path.name != LOCK_NAME and not is_temporary(path):
                yield path

    def append(self, record: EpochRecord) -> None:
        """Add one epoch to the metrics."""
        if not is_main():
            return
        line = json.dumps(dataclasses.asdict(record)) + "\n"
        lines = self.metrics.read_text() if self.metrics.exists() else ""
        write_atomically(self.metrics, lambda temporary: temporary.write_text(lines + line))

    def keep_epochs(self, count: int) -> None:
        """Drop metrics of epochs that no checkpoint holds: they will be trained again."""
        if is_main() and self.metrics.exists():
            kept = self.metrics.read_text().splitlines(keepends=True)[:count]
            write_atomically(self.metrics, lambda temporary: temporary.write_text("".join(kept)))

    def finish(self, summary: RunSummary) -> None:
        """Mark the run as finished; its checkpoints are of no more use."""
        write_json(self.summary, dataclasses.asdict(summary))
        self.checkpoints.remove()


def _contents(data: str, teacher: str) -> dict[str, str]:
    """Fingerprints as the environment holds them."""
    return {
        "data_fingerprint": data,
        **({"teacher_fingerprint": teacher} if teacher else {}),
    }


def read_environment(file: Path) -> dict[str, Any]:
    """Machine, versions and threads as a run recorded them.

    Raises:
        RunError: it is missing, damaged, or holds something else.
    """
    return read_plain(
        file,
        Facts,
        expected="the environment of a run",
        remedy="check that the path is a run directory",
    )


def read_summary(path: str | Path) -> RunSummary:
    """The summary of a finished run.

    Args:
        path: a run directory, which may have been moved.

    Raises:
        RunError: there is none, or it is damaged.
    """
    file = Path(path) / "summary.json"
    summary = read_plain(file, RunSummary, expected="the summary of a run", remedy="run it again")
    return dataclasses.replace(summary, directory=str(path))


def read_records(path: str | Path) -> list[EpochRecord]:
    """The epochs of a run, from its metrics.jsonl.

    Raises:
        RunError: there are none, or they are damaged.
    """
    file = Path(path) / "metrics.jsonl"
    try:
        lines = read_text(file).splitlines()
        return [from_plain(EpochRecord, json.loads(line)) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            str(file),
            expected="one JSON object a line, each an epoch",
            got=f"{type(error).__name__}: {error}",
            remedy="check that the path is a run directory",
        ) from error


def skipped_steps(path: str | Path) -> int:
    """How many of a run's steps fp16's scaler has skipped."""
    return sum(record.skipped_steps for record in read_records(path))


def environment() -> dict[str, Any]:
    """Machine, versions and threads."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "threads": torch.get_num_threads(),
        "processes": size(),
        "packages": {name: version(name) for name in PACKAGES},
    }
