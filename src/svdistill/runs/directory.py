"""A run directory, whose files are written atomically, and its configuration, config.yaml."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.common import (
    RunError,
    locked,
    make_directory,
    plain_fields,
    read_yaml,
    reading,
    require_empty,
    require_unlocked,
    sweep,
    write_json,
    write_text,
)
from svdistill.config import DistillConfig, TrainConfig
from svdistill.parallel import is_main
from svdistill.runs.checkpoint import Checkpoints
from svdistill.runs.records import EpochRecord, RunSummary, environment, read_environment

# Options that may change when a run is resumed.
MAY_DIFFER: Final = (
    *("output", "device", "capture", "workers", "memory_limit_gb", "checkpoint_minutes", "resume"),
)

# For each fingerprint, the options that say where its images or teacher are found. They may change
# when a run is resumed, as long as the fingerprint is the same.
PLACES: Final = {
    "data_fingerprint": ("data", "unlabelled"),
    "teacher_fingerprint": ("teacher", "teacher_weights", "knowledge"),
}

# Facts that decide which kernels run: results are bit for bit equal only if these are equal.
NUMERIC_PACKAGES: Final = ("svdistill", "torch", "numpy")
NUMERIC_FACTS: Final = ("threads", "processes", "processor")

RunConfig = TrainConfig | DistillConfig


class RunDirectory:
    """Reads and writes the files of one run. Only the main process writes.

    The files are `config.yaml`, `environment.json`, `metrics.jsonl`, two checkpoints,
    `student.safetensors` (last epoch), `student-best.safetensors` and `tensorboard/`; a finished
    run also has `summary.json`, `predictions.json` and, after a distillation, `before_after.json`.
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
        self.resumed_with = ""  # differences from the environment in which the run was started

    @contextmanager
    def opened(
        self,
        config: RunConfig,
        data_fingerprint: str,
        teacher_fingerprint: str = "",
        loss: str = "",
    ) -> Iterator[None]:
        """`open` the directory, and lock it against other processes within the block."""
        require_unlocked(self.path)
        contents = _fingerprints(data_fingerprint, teacher_fingerprint)
        self._is_resumed(config, contents, loss)  # before anything is written
        make_directory(self.path)
        with locked(self.path):
            self.open(config, data_fingerprint, teacher_fingerprint, loss)
            sweep(self.path)
            yield

    def open(
        self,
        config: RunConfig,
        data_fingerprint: str,
        teacher_fingerprint: str = "",
        loss: str = "",
    ) -> None:
        """Create the directory of a new run, or check that it holds the run to resume.

        A resumption is recorded in environment.json, and new places of images or teacher in
        config.yaml.

        Args:
            config: the options of the run.
            data_fingerprint: fingerprint of the images.
            teacher_fingerprint: fingerprint of the teacher's weights or stored knowledge, if any.
            loss: class and options of a loss given as an object, which `config` does not hold.

        Raises:
            RunError: the directory holds a finished run, another run or other files, or cannot be
                written.
        """
        contents = _fingerprints(data_fingerprint, teacher_fingerprint)
        if self._is_resumed(config, contents, loss):
            self._note_resumption(config)
            return
        make_directory(self.path)
        write_text(self.config, to_yaml(config))
        given = {"loss": loss} if loss else {}
        write_json(self.environment, {**environment(), **contents, **given})

    def _note_resumption(self, config: RunConfig) -> None:
        """Record a changed environment, and the new places of images and teacher."""
        recorded, now = read_environment(self.environment), environment()
        stored = stored_values(self.config)
        moved = moved_places(config, stored)
        devices = (str(stored.get("device", "auto")), config.device)
        self.resumed_with = numeric_differences(recorded, now, devices)
        places = (f"{name} {both}" for name, both in moved.items())
        note = "; ".join([numeric_text(now, config.device), *places])
        earlier = recorded.get("resumed", {})
        last = [numeric_text(recorded, devices[0]), *map(str, earlier.values())][-1]
        if not moved and note == last.partition("; ")[0]:
            return  # nothing has changed since the last note
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        write_json(self.environment, {**recorded, "resumed": {**earlier, when: note}})
        if moved:
            stored |= {name: getattr(config, name) for name in moved}
            write_text(self.config, yaml.safe_dump(stored, sort_keys=False))

    def _is_resumed(self, config: RunConfig, contents: dict[str, str], loss: str) -> bool:
        """Whether the directory holds the run to resume; raises if it holds something else."""
        self._require_usable(config.resume)
        if config.resume and self.config.exists():
            if not self.environment.exists() and not self.checkpoints.any():
                require_same(config, self.config)
                return False  # the run was killed after writing its first file: start it anew
            recorded = read_environment(self.environment)
            require_same(config, self.config, [at for name in contents for at in PLACES[name]])
            require_contents(config, self.path, recorded, contents)
            require_same_loss(self.environment, recorded, loss)
            return True
        return False

    def require_free(self, *, resume: bool) -> None:
        """Raise `RunError` unless the directory is free for a new run, or for one to resume.

        It must not be in use, nor hold other files, a finished run, or, unless `resume` is given,
        an unfinished run. `opened` checks this and more, but needs the images' fingerprint.
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
        if self.config.exists():
            if resume:
                return
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="an unfinished run",
                remedy="continue it with --resume",
            )
        require_empty(self.path)

    def append(self, record: EpochRecord) -> None:
        """Append the record of an epoch to metrics.jsonl."""
        if is_main():
            lines = self.metrics.read_text() if self.metrics.exists() else ""
            line = json.dumps(dataclasses.asdict(record))
            write_text(self.metrics, f"{lines}{line}\n")

    def keep_epochs(self, count: int) -> None:
        """Keep the metrics of the first `count` epochs; later epochs are trained again."""
        if is_main() and self.metrics.exists():
            kept = self.metrics.read_text().splitlines(keepends=True)[:count]
            write_text(self.metrics, "".join(kept))

    def finish(self, summary: RunSummary) -> None:
        """Write summary.json, which marks the run as finished, and remove its checkpoints."""
        write_json(self.summary, dataclasses.asdict(summary))
        self.checkpoints.remove()


def _fingerprints(data: str, teacher: str) -> dict[str, str]:
    """The fingerprints of images and teacher under their names in environment.json."""
    return {"data_fingerprint": data, **({"teacher_fingerprint": teacher} if teacher else {})}


def to_yaml(config: RunConfig) -> str:
    """A configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def stored_values(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml as a dictionary; raise `RunError` if it is not one."""
    remedy = "give a run directory, or start the run again in another one"
    with reading(path, expected="the configuration of a run", remedy=remedy):
        stored = read_yaml(path)
        if not isinstance(stored, dict) or not {"data", "classes_every"} <= set(stored):
            raise ValueError("something else")
        plain_fields(DistillConfig if "loss" in stored else TrainConfig, stored)
    return dict(stored)


def read_config(path: Path) -> RunConfig:
    """Read a run's config.yaml; missing options get their defaults. No user code is imported."""
    stored = stored_values(path)
    kind = DistillConfig if "loss" in stored else TrainConfig
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{"output": "", **{name: stored[name] for name in names & set(stored)}})


def require_same(config: RunConfig, path: Path, moved: Collection[str] = ()) -> None:
    """Raise `RunError` unless a configuration equals a stored one, except for `MAY_DIFFER`.

    Options that are missing in the file have their defaults. Options in `moved` may differ too:
    the images or the teacher that they locate are compared by fingerprint instead.
    """
    stored = {**dataclasses.asdict(type(config)(output="")), **stored_values(path)}
    asked = dataclasses.asdict(config)
    for name in differing(asked, stored, (*MAY_DIFFER, *moved)):
        raise RunError(
            name,
            expected=f"{stored.get(name)!r} as in {path}",
            got=repr(asked.get(name)),
            remedy="resume with the same command and options, or choose another --output",
        )


def differing(
    asked: Mapping[str, Any], stored: Mapping[str, Any], moved: Collection[str]
) -> Iterator[str]:
    """The names of the options whose values differ, without those in `moved`.

    Example:
        >>> list(differing({"data": "a", "epochs": 3}, {"data": "b", "epochs": 2}, ["data"]))
        ['epochs']
    """
    for name in dict.fromkeys([*asked, *stored]):
        if name not in moved and stored.get(name) != asked.get(name):
            yield name


def require_contents(
    config: RunConfig, run: Path, recorded: Mapping[str, Any], contents: Mapping[str, str]
) -> None:
    """Raise `RunError` if a run was started with other images or another teacher.

    `recorded` is the environment.json of the run, with the fingerprints at its start; `contents`
    holds the present fingerprints.
    """
    for name, now in contents.items():
        if recorded.get(name) != now:
            data = name == "data_fingerprint"
            places = [getattr(config, place, "") for place in PLACES[name]]
            raise RunError(
                "data" if data else "teacher",
                expected=f"the {'images' if data else 'teacher'} that {run} was started with",
                got=f"{'others' if data else 'another'} under the name "
                + " ".join(place for place in places if place),
                remedy="restore what it was, or choose another --output",
            )


def require_same_loss(path: Path, recorded: Mapping[str, Any], loss: str) -> None:
    """Raise `RunError` if a run was started with a loss object of other options.

    `recorded` is the content of `path`, the run's environment.json. Runs of named losses, and those
    of earlier versions, have no entry there.
    """
    started = recorded.get("loss", loss)
    if started != loss:
        raise RunError(
            "loss",
            expected=f"{started} as in {path}",
            got=loss,
            remedy="resume with a loss of the same options, or choose another --output",
        )


def moved_places(config: RunConfig, stored: Mapping[str, Any]) -> dict[str, str]:
    """The options that locate images or teacher and have changed, with text of both values."""
    return {
        name: f"{getattr(config, name)!r} instead of {stored[name]!r}"
        for name in (name for names in PLACES.values() for name in names)
        if name in stored and stored[name] != getattr(config, name, None)
    }


def numeric_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], devices: tuple[str, str]
) -> str:
    """Text of the differences between two environments that may change results; empty if none.

    `devices` holds the option `device` of both times.
    """
    earlier, later = _numeric_facts(before, devices[0]), _numeric_facts(now, devices[1])
    return ", ".join(
        f"{name} {later[name]} instead of {value}"
        for name, value in earlier.items()
        if value != later[name]
    )


def numeric_text(now: Mapping[str, Any], device: str) -> str:
    """A line of text with the facts of the environment on which a run's results depend."""
    return ", ".join(f"{name} {value}" for name, value in _numeric_facts(now, device).items())


def _numeric_facts(recorded: Mapping[str, Any], device: str) -> dict[str, Any]:
    packages = recorded.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    gpu = None if device == "cpu" else recorded.get("gpu")
    return {
        **{name: versions.get(name) for name in NUMERIC_PACKAGES},
        **{name: recorded.get(name) for name in NUMERIC_FACTS},
        "device": gpu or "cpu",
    }
