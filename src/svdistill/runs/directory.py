"""A run directory, whose files are written atomically."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from svdistill.common import (
    LOCK_NAME,
    RunError,
    is_temporary,
    locked,
    make_directory,
    require_unlocked,
    sweep,
    write_atomically,
    write_json,
)
from svdistill.parallel import is_main
from svdistill.runs.checkpoint import Checkpoints
from svdistill.runs.records import EpochRecord, RunSummary, environment, read_environment
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


class RunDirectory:
    """Reads and writes the files of one run. Only the main process writes.

    `config.yaml`, `environment.json`, `metrics.jsonl`, two checkpoints, `student.safetensors` (last
    epoch), `student-best.safetensors` and `tensorboard/`; of a finished run also `summary.json`,
    `predictions.json` and, after a distillation, `before_after.json`.
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
        self.predictions = self.path / "predictions.json"
        self.summary = self.path / "summary.json"
        self.resumed_with = ""  # what differs from the environment of the start

    @contextmanager
    def opened(
        self, config: RunConfig, data_fingerprint: str, teacher_fingerprint: str = ""
    ) -> Iterator[None]:
        """`open` the directory, and lock it while the block lasts."""
        require_unlocked(self.path)
        contents = _fingerprints(data_fingerprint, teacher_fingerprint)
        self._is_resumed(config, contents)  # before anything is written
        make_directory(self.path)
        with locked(self.path):
            self.open(config, data_fingerprint, teacher_fingerprint)
            sweep(self.path)
            yield

    def open(self, config: RunConfig, data_fingerprint: str, teacher_fingerprint: str = "") -> None:
        """Make the directory of a new run, or check that it holds the run to resume.

        Records a resumption in the environment, and moved images or teachers in the configuration.
        The fingerprints are of the images and of the teacher's weights or knowledge, if any.

        Raises:
            RunError: it holds a finished run, another run or other files, or cannot be written.
        """
        contents = _fingerprints(data_fingerprint, teacher_fingerprint)
        if self._is_resumed(config, contents):
            self._note_resumption(config)
            return
        make_directory(self.path)
        self._write_text(self.config, to_yaml(config))
        write_json(self.environment, {**environment(), **contents})

    def _note_resumption(self, config: RunConfig) -> None:
        """Record a changed environment, and where images and teacher have moved."""
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
            stored |= {name: getattr(config, name) for name in moved}
            self._write_text(self.config, yaml.safe_dump(stored, sort_keys=False))

    def _is_resumed(self, config: RunConfig, contents: dict[str, str]) -> bool:
        """Whether it holds the run to resume; raises if it holds something else."""
        self._require_usable(config.resume)
        if config.resume and self.config.exists():
            if not self.environment.exists() and not self.checkpoints.any():
                require_same(config, self.config)
                return False  # killed after its first file
            recorded = read_environment(self.environment)
            known = [place for name in contents if name in recorded for place in PLACES[name]]
            require_same(config, self.config, known)
            require_contents(config, self.path, recorded, contents)
            return True
        return False

    def require_free(self, *, resume: bool) -> None:
        """Raise `RunError` if it is in use, or holds a finished run, one not to resume, or files.

        `opened` does the same, and more; this needs no images.
        """
        require_unlocked(self.path)
        self._require_usable(resume)

    def _require_usable(self, resume: bool) -> None:
        if self.summary.exists():
            raise RunError(
                str(self.path),
                expected="a directory without a finished run",
                got="a finished run",
                remedy="choose another --output, or remove the directory if it is not needed",
            )
        if resume and self.config.exists():
            return
        foreign = not self.path.is_dir() or any(
            path.name != LOCK_NAME and not is_temporary(path) for path in self.path.iterdir()
        )
        if self.path.exists() and foreign:
            started = self.config.exists()
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="an unfinished run" if started else "something else",
                remedy="continue it with --resume" if started else "choose another --output",
            )

    def append(self, record: EpochRecord) -> None:
        """Append an epoch to the metrics."""
        if is_main():
            lines = self.metrics.read_text() if self.metrics.exists() else ""
            line = json.dumps(dataclasses.asdict(record))
            self._write_text(self.metrics, f"{lines}{line}\n")

    def keep_epochs(self, count: int) -> None:
        """Drop the metrics of epochs after the last checkpoint, which are trained again."""
        if is_main() and self.metrics.exists():
            kept = self.metrics.read_text().splitlines(keepends=True)[:count]
            self._write_text(self.metrics, "".join(kept))

    def _write_text(self, path: Path, text: str) -> None:
        write_atomically(path, lambda temporary: temporary.write_text(text))

    def finish(self, summary: RunSummary) -> None:
        """Mark the run as finished, and remove its checkpoints."""
        write_json(self.summary, dataclasses.asdict(summary))
        self.checkpoints.remove()


def _fingerprints(data: str, teacher: str) -> dict[str, str]:
    """Fingerprints, as named in environment.json."""
    return {"data_fingerprint": data, **({"teacher_fingerprint": teacher} if teacher else {})}
