"""Write, read and compare the configuration of a run, config.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.common import RunError, plain_fields, read_yaml
from svdistill.config import DistillConfig, TrainConfig
from svdistill.losses import unread_options

# Options that may change when a run is resumed.
MAY_DIFFER: Final = (
    *("output", "device", "capture", "workers", "memory_limit_gb", "checkpoint_minutes", "resume"),
)

# The options that locate what a fingerprint identifies. They may change if it has moved.
PLACES: Final = {
    "data_fingerprint": ("data", "unlabelled"),
    "teacher_fingerprint": ("teacher", "teacher_weights", "knowledge"),
}

# These decide which kernels run; bit-for-bit equality needs equal values.
NUMERIC_PACKAGES: Final = ("svdistill", "torch", "numpy")
NUMERIC_FACTS: Final = ("threads", "processes", "processor")

RunConfig = TrainConfig | DistillConfig


def to_yaml(config: RunConfig) -> str:
    """A configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def stored_values(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml as a dictionary; raise `RunError` for other files."""
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
    # Earlier versions wrote a value for options that the loss does not read, too.
    unread = unread_options(stored["loss"]) if "loss" in stored else ()
    return {name: None if name in unread else value for name, value in stored.items()}


def read_config(path: Path) -> RunConfig:
    """Read a run's config.yaml; missing options have their defaults. It imports no code."""
    stored = stored_values(path)
    kind = DistillConfig if "loss" in stored else TrainConfig
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{"output": "", **{name: stored[name] for name in names & set(stored)}})


def require_same(config: RunConfig, path: Path, moved: Collection[str] = ()) -> None:
    """Raise `RunError` unless a configuration equals a stored one, but for `MAY_DIFFER`.

    Missing options have their defaults. Those in `moved` may differ too, since a fingerprint
    identifies what they locate.
    """
    stored = {**dataclasses.asdict(type(config)(output="")), **stored_values(path)}
    asked = dataclasses.asdict(config)
    for name in [*asked, *stored]:
        if name not in (*MAY_DIFFER, *moved) and stored.get(name) != asked.get(name):
            raise RunError(
                name,
                expected=f"{stored.get(name)!r} as in {path}",
                got=repr(asked.get(name)),
                remedy="resume with the same command and options, or choose another --output",
            )


def require_contents(
    config: RunConfig, run: Path, recorded: Mapping[str, Any], contents: Mapping[str, str]
) -> None:
    """Raise `RunError` if a run was started with other images or another teacher.

    `recorded` is the run's environment; `contents` holds the present fingerprints.
    """
    for name, now in contents.items():
        if name in recorded and recorded[name] != now:
            data = name == "data_fingerprint"
            places = [getattr(config, place, "") for place in PLACES[name]]
            raise RunError(
                "data" if data else "teacher",
                expected=f"the {'images' if data else 'teacher'} that {run} was started with",
                got=f"{'others' if data else 'another'} under the name "
                + " ".join(place for place in places if place),
                remedy="restore what it was, or choose another --output",
            )


def moved_places(config: RunConfig, path: Path) -> dict[str, str]:
    """Options that locate images or teacher and differ from the stored ones, with both values."""
    stored = stored_values(path)
    return {
        name: f"{getattr(config, name)!r} instead of {stored[name]!r}"
        for name in (name for names in PLACES.values() for name in names)
        if name in stored and stored[name] != getattr(config, name, None)
    }


def numeric_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], devices: tuple[str, str]
) -> str:
    """The differences between two environments that end bit-for-bit equality; empty for none.

    `devices` is the configured `device` at both times.
    """
    facts = [_numeric_facts(*one) for one in zip((before, now), devices, strict=True)]
    return ", ".join(
        f"{name} {facts[1][name]} instead of {facts[0][name]}"
        for name in facts[0]
        if name in facts[1] and facts[0][name] != facts[1][name]
    )


def numeric_text(now: Mapping[str, Any], device: str) -> str:
    """The environment that a run's numbers depend on, as one line."""
    return ", ".join(f"{name} {value}" for name, value in _numeric_facts(now, device).items())


def _numeric_facts(recorded: Mapping[str, Any], device: str) -> dict[str, Any]:
    packages = recorded.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    gpu = None if device == "cpu" else recorded.get("gpu")
    return {
        **{name: versions[name] for name in NUMERIC_PACKAGES if name in versions},
        **{name: recorded[name] for name in NUMERIC_FACTS if name in recorded},
        "device": gpu or "cpu",
    }
