"""What a training step costs, for every way to teach, as a ratio to the same floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from svdistill.common import Case, Measurement, interleave
from svdistill_benchmarks.machine import machine
from svdistill_benchmarks.peers import HOW_TO_INSTALL
from svdistill_benchmarks.step_parts import REST, NetworkParts, network_parts
from svdistill_benchmarks.step_rows import Row, floor, step_rows
from svdistill_benchmarks.workload import PAIRS, Workload, name_of, new_workload


@dataclass(frozen=True)
class PartShare:
    """A part of a step, as a share of the floor: the median of the rounds' ratios."""

    kind: str
    over_floor: float


@dataclass(frozen=True)
class StepRow:
    """A way to teach: what a step of it takes, over the floor of the same round, and on what.

    The parts were timed each on its own; `the rest` is the step less its parts: the loss where it
    has no part of its own, clipping, clearing gradients. It may be a little negative.
    """

    name: str
    seconds: Measurement
    over_floor: Measurement
    parts: tuple[PartShare, ...]


@dataclass(frozen=True)
class NetworkSteps:
    """The table of one teacher and student."""

    teacher: str
    student: str
    floor: Measurement
    rows: tuple[StepRow, ...]


@dataclass(frozen=True)
class StepResult:
    """What `bench_step` measured, and on which machine.

    Attributes:
        machine: see `machine`.
        batch_size, width, rounds, images: as asked for.
        tables: one a teacher and student.
        left_out: rows that were not measured, and what to do about it.
    """

    machine: dict[str, Any]
    batch_size: int
    width: float
    rounds: int
    images: str
    tables: tuple[NetworkSteps, ...]
    left_out: tuple[str, ...]


def bench_step(
    pairs: tuple[str, ...] = ("vgg", "mobilenet"),
    *,
    batch_size: int = 128,
    width: float = 1.0,
    rounds: int = 10,
    device: torch.device | str = "cpu",
    data: str | None = None,
) -> StepResult:
    """Time one training step of every row, interleaved in this process.

    A step is the teacher's forward pass (eval mode, no gradient; from the store, reading instead),
    the student's in training mode, the losses, the backward pass or passes, the update by SGD with
    momentum, and `zero_grad`; with fresh networks of 100 classes laid out channels last.
    With `clip="amortised"` it is the mean of 20 steps in a row. The floor is one forward pass of
    the teacher, one of the student and two backward passes of its cross-entropy, without update.

    Args:
        pairs: keys of `PAIRS`.
        batch_size: images a step.
        width: factor on the networks' channels.
        rounds: how often everything is timed, after one round that does not count.
        device: where.
        data: whose test images, see `load_images`; noise if not given.

    Returns:
        Medians, quartiles and all times, in seconds.

    Raises:
        ArgumentError: a count below 1, or a width that is not positive.
    """
    device = torch.device(device)
    tables = tuple(
        _measure(
            pair,
            new_workload(pair, batch_size=batch_size, device=device, width=width, data=data),
            rounds,
        )
        for pair in pairs
    )
    where = machine()
    left_out = () if where["torchdistill"] else (HOW_TO_INSTALL,)
    return StepResult(where, batch_size, width, rounds, name_of(data), tables, left_out)


def _measure(pair: str, workload: Workload, rounds: int) -> NetworkSteps:
    networks = network_parts(workload)
    rows = step_rows(workload, networks)
    cases = [floor(workload), *(row.case for row in rows), *_part_cases(networks, rows)]
    measured = interleave(cases, rounds, device=workload.images.device)
    seconds = {case.name: measurement for case, measurement in zip(cases, measured, strict=True)}
    teacher, student = PAIRS[pair]
    return NetworkSteps(
        teacher,
        student,
        seconds["floor"],
        tuple(_step_row(row, seconds) for row in rows),
    )


def _part_cases(networks: NetworkParts, rows: list[Row]) -> list[Case]:
    """Every part that some row has, once."""
    parts = [*networks, *(part for row in rows for part, _ in row.parts)]
    return list({part.case.name: part.case for part in parts}.values())


def _step_row(row: Row, seconds: dict[str, Measurement]) -> StepRow:
    whole = seconds[row.case.name]
    over_floor = whole.ratios_to(seconds["floor"])
    shares: dict[str, float] = {}
    for part, times in row.parts:
        share = seconds[part.case.name].ratios_to(seconds["floor"]).median
        shares[part.kind] = shares.get(part.kind, 0.0) + times * share
    shares[REST] = over_floor.median - sum(shares.values())
    return StepRow(
        row.case.name,
        whole,
        over_floor,
        tuple(PartShare(kind, share) for kind, share in shares.items()),
    )
