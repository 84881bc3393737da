"""A run's configuration as the file config.yaml, and whether a run may go on with another."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.common import RunError, plain_fields, read_yaml
from svdistill.config import DistillConfig, TrainConfig

# What a run may be resumed with another value of.
MAY_DIFFER: Final = (
    *("output", "device", "capture", "workers", "memory_limit_gb", "checkpoint_minutes", "resume"),
)


# Where the things lie whose fingerprints a run records: they may have been moved.
PLACES: Final = {
    "data_fingerprint": ("data", "unlabelled"),
    "teacher_fingerprint": ("teacher", "teacher_weights", "knowledge"),
}

# What decides which kernels compute; another value ends equality bit for bit.
NUMERIC_PACKAGES: Final = ("svdistill", "torch", "numpy")

NUMERIC_FACTS: Final = ("threads", "processes", "processor")


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


def require_same(config: RunConfig, path: Path, moved: Collection[str] = ()) -> None:
    """Raise `RunError` unless the YAML at the path says what the configuration says.

    Where the run lies, the device, how it is used, the processes beside it, and `resume` itself may
    differ. What an earlier version did not write was as it is by default.

    Args:
        config: what is asked for.
        path: of the run's config.yaml.
        moved: further options that may differ, since a fingerprint tells what they stand for.
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
    """Raise `RunError` where a run to resume was started with other images or another teacher.

    Args:
        config: what is asked for.
        run: the run directory.
        recorded: its environment, with the fingerprints that the run has recorded.
        contents: fingerprints by the names in `PLACES`, of what is there now.
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
    """What lies elsewhere than the YAML at the path says: names of options, and both places."""
    stored = stored_values(path)
    return {
        name: f"{getattr(config, name)!r} instead of {stored[name]!r}"
        for name in (name for names in PLACES.values() for name in names)
        if name in stored and stored[name] != getattr(config, name, None)
    }


def numeric_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], devices: tuple[str, str]
) -> str:
    """What differs between two environments and ends equality bit for bit; empty for nothing.

    Args:
        before: the environment that a run was started in, as `environment` describes it.
        now: the one that it goes on in.
        devices: `device` of the run's configuration before, and now.

    Example:
        >>> one = {"threads": 1, "packages": {"torch": "2.6.0"}, "gpu": None}
        >>> two = {"threads": 2, "packages": {"torch": "2.7.0"}, "gpu": None}
        >>> numeric_differences(one, two, ("auto", "cpu"))
        'torch 2.7.0 instead of 2.6.0, threads 2 instead of 1'
    """
    facts = [_numeric_facts(*one) for one in zip((before, now), devices, strict=True)]
    return ", ".join(
        f"{name} {facts[1][name]} instead of {facts[0][name]}"
        for name in facts[0]
        if name in facts[1] and facts[0][name] != facts[1][name]
    )


def numeric_text(now: Mapping[str, Any], device: str) -> str:
    """What decides a run's numbers beside its options, as one line."""
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
