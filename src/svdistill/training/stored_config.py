"""A run's configuration as the file config.yaml, and whether a run may go on with another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.errors import RunError
from svdistill.training.config import DistillConfig, TrainConfig

# What a run may be resumed with another value of.
MAY_DIFFER: Final = ("output", "device", "capture", "workers", "resume")

RunConfig = TrainConfig | DistillConfig


def to_yaml(config: RunConfig) -> str:
    """A configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def stored_values(path: Path) -> dict[str, Any]:
    """What a run's config.yaml says.

    Raises:
        RunError: it is missing or no configuration.
    """
    try:
        stored = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        got = type(error).__name__
    else:
        if isinstance(stored, dict) and {"data", "classes_every"} <= set(stored):
            return stored
        got = "something else"
    raise RunError(
        str(path),
        expected="the configuration of a run",
        got=got,
        remedy="give a run directory, or start the run again in another one",
    )


def require_same(config: RunConfig, path: Path) -> None:
    """Raise `RunError` unless the YAML at the path says what the configuration says.

    Where the run lies, the device, how it is used, the processes beside it, and `resume` itself may
    differ. What an earlier version did not write was as it is by default.
    """
    stored = {**dataclasses.asdict(type(config)(output="")), **stored_values(path)}
    asked = dataclasses.asdict(config)
    for name in [*asked, *stored]:
        if name not in MAY_DIFFER and stored.get(name) != asked.get(name):
            raise RunError(
                name,
                expected=f"{stored.get(name)!r} as in {path}",
                got=repr(asked.get(name)),
                remedy="resume with the same command and options, or choose another --output",
            )
