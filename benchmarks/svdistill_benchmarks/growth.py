"""How the cost of a step grows with the batch, the size of the maps and their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from svdistill.common import Case, Measurement, interleave, require_count
from svdistill_benchmarks.machine import machine
from svdistill_benchmarks.step import row_seconds
from svdistill_benchmarks.step_rows import (
    DEFAULT,
    FROM_STORE,
    POSITION_GRAM,
    POSITION_SVD,
    SVD,
    Steps,
    method_steps,
    plain_step,
)
from svdistill_benchmarks.workload import name_of, new_workload

METHODS: Final = (
    "plain student",
    "soft target",
    SVD,
    POSITION_SVD,
    POSITION_GRAM,
    DEFAULT,
    POSITION_SVD + FROM_STORE,
)

# One of these grows while the others have the value of `BASE`.
AXES: Final = {
    "batch": (16, 32, 64, 128),
    "image size": (16, 32, 48, 64),
    "width": (0.25, 0.5, 0.75, 1.0),
}
BASE: Final = {"batch": 32, "image size": 32, "width": 0.5}


@dataclass(frozen=True)
class GrowthPoint:
    """Seconds of a step of each method, at one value of what grows."""

    axis: str
    value: float
    steps: tuple[Measurement, ...]


@dataclass(frozen=True)
class GrowthResult:
    """What `bench_growth` measured, of which methods and networks, and on which machine."""

    machine: dict[str, Any]
    rounds: int
    network: str
    images: str
    base: dict[str, float]
    methods: tuple[str, ...]
    points: tuple[GrowthPoint, ...]


def bench_growth(
    pair: str = "vgg",
    *,
    width: float = 1.0,
    rounds: int = 5,
    device: torch.device | str = "cpu",
    data: str | None = None,
) -> GrowthResult:
    """Time steps of some methods while one of batch, image size and width grows.

    Args:
        pair: a key of `PAIRS`.
        width: factor on all widths, for a quick trial.
        rounds: how often everything is timed at each point, after one round that does not count.
        device: where.
        data: see `new_workload`.

    Returns:
        A point for each value of each axis.

    Raises:
        ArgumentError: no rounds, a wrong width, or images that cannot be read.
    """
    require_count("rounds", rounds)
    device = torch.device(device)
    points = []
    for axis, values in AXES.items():
        for value in values:
            at = {**BASE, axis: value}
            workload = new_workload(
                pair,
                batch_size=int(at["batch"]),
                device=device,
                width=width * at["width"],
                data=data,
                image_size=int(at["image size"]),
            )
            plain, *names = METHODS
            methods = [Steps(((Case(plain, plain_step(workload)), 1.0),))]
            methods += [method_steps(workload, name) for name in names]
            cases = [case for steps in methods for case, _ in steps.kinds]
            measured = interleave(cases, rounds, device=device)
            seconds = {case.name: one for case, one in zip(cases, measured, strict=True)}
            steps = tuple(row_seconds(method, seconds) for method in methods)
            shown = value * width if axis == "width" else value
            points.append(GrowthPoint(axis, shown, steps))
    base = {**BASE, "width": width * BASE["width"]}
    return GrowthResult(machine(), rounds, pair, name_of(data), base, METHODS, tuple(points))
