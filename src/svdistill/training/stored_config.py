"""A run's configuration as the file config.yaml, and whether a run may go on with another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.errors import RunError
from svdistill.plain_values import plain_fields
from svdistill.plain_yaml import read_yaml
from svdistill.training.config import DistillConfig, TrainConfig

# What a run may be resumed with another value of.
MAY_DIFFER: Final = (
    *("output", "device", "capture", "workers", "memory_limit_gb", "checkpoint_minutes", "resume"),
)

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
        stored = read_yaml(path)
        if not isinstance(stored, dict) or not {"data", "classes_every"} <= set(stored):
            raise ValueError("something else")
        plain_fields(DistillConfig if "loss" in stored else TrainConfig, stored)
    except (OSError, ValueError) as error:
        raise RunError(
            str(path),
            expected="the configuration of a run",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="give a run directory, or start the run again in another one",
        ) from error
    return stored


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
