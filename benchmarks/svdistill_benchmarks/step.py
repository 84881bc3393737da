"""What a training step costs, for every way to teach, as a ratio to the same floor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from svdistill.common import Case, Measurement, interleave, keep_memory, require_count
from svdistill_benchmarks.machine import in_process, machine
from svdistill_benchmarks.peers import HOW_TO_INSTALL
from svdistill_benchmarks.step_parts import REST, NetworkParts, network_parts
from svdistill_benchmarks.step_rows import Row, Steps, floor, step_rows
from svdistill_benchmarks.workload import PAIRS, name_of, new_workload


@dataclass(frozen=True)
class PartShare:
    """A part of a step, as a share of the floor: the median of the rounds' ratios."""

    kind: str
    over_floor: float


@dataclass(frozen=True)
class StepRow:
    """A method: what a step of it takes, over the floor of the same round, and on what.

    The parts were timed each on its own; `the rest` is the step less its parts: the loss where it
    has no part of its own, clipping, clearing gradients. It may be a little negative.
    `store_bytes` are those of one image in one view of a knowledge store, in float16.
    """

    name: str
    seconds: Measurement
    over_floor: Measurement
    parts: tuple[PartShare, ...]
    store_bytes: int | None = None


@dataclass(frozen=True)
class NetworkSteps:
    """The rows of one teacher and student, in a process that keeps its memory or does not."""

    teacher: str
    student: str
    floor: Measurement
    rows: tuple[StepRow, ...]
    keeps_memory: bool = False

    def times_plain(self, name: str) -> float:
        """A row's step over one of the plain student: the median of the rounds' ratios."""
        seconds = {row.name: row.seconds for row in self.rows}
        return seconds[name].ratios_to(seconds["plain student"]).median


@dataclass(frozen=True)
class StepResult:
    """What `bench_step` measured, and on which machine.

    Attributes:
        machine: see `machine`.
        batch_size, width, rounds, images: as asked for.
        tables: one for each teacher and student, and for memory that is kept or not.
        left_out: what was not measured, and what to do about it.
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
    """Time one training step of every row, interleaved in one process for each table.

    A step is the teacher's forward pass (eval mode, no gradient; from the store, reading instead),
    the student's in training mode, the losses, the backward pass or passes, the update by SGD with
    momentum, and `zero_grad`; with fresh networks of 100 classes laid out channels last.
    With `clip="amortised"` some steps take two gradients and most take one: both are timed, and
    their mean is weighted as they occur. The floor is one forward pass of the teacher, one of the
    student and two backward passes of its cross-entropy, without update. On a CPU every pair is
    measured in a process that keeps freed memory, as `svdistill train` does, and in one that does
    not.

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
    require_count("batch_size", batch_size)
    require_count("rounds", rounds)
    device = torch.device(device)
    shape = {"batch_size": batch_size, "device": device, "width": width, "data": data}
    tables = []
    for pair in pairs:
        for keeps_memory in (False, True) if device.type == "cpu" else (False,):
            table = in_process(partial(measure_pair, pair, rounds, keeps_memory, **shape))
            if table.keeps_memory == keeps_memory:  # else the allocator cannot be set here
                tables.append(table)
    where = machine()
    left_out = () if where["torchdistill"] else (HOW_TO_INSTALL,)
    return StepResult(where, batch_size, width, rounds, name_of(data), tuple(tables), left_out)


def measure_pair(pair: str, rounds: int, keeps_memory: bool, **workload: Any) -> NetworkSteps:
    """Time the rows of one pair of networks in this process.

    Args:
        pair: a key of `PAIRS`.
        rounds: see `bench_step`.
        keeps_memory: call `keep_memory` first, which holds for the whole process.
        workload: options of `new_workload`.
    """
    keeps_memory = keeps_memory and keep_memory()
    work = new_workload(pair, **workload)
    networks = network_parts(work)
    rows = step_rows(work, networks)
    kinds = [case for row in rows for case, _ in row.steps.kinds]
    cases = [floor(work), *kinds, *_part_cases(networks, rows)]
    measured = interleave(cases, rounds, device=work.images.device)
    seconds = {case.name: measurement for case, measurement in zip(cases, measured, strict=True)}
    table = tuple(_step_row(row, seconds) for row in rows)
    return NetworkSteps(*PAIRS[pair], seconds["floor"], table, keeps_memory)


def row_seconds(steps: Steps, seconds: dict[str, Measurement]) -> Measurement:
    """The mean over the kinds of steps, by their shares, in every round."""
    times = [(seconds[case.name].seconds, share) for case, share in steps.kinds]
    rounds = zip(*([share * one for one in each] for each, share in times), strict=True)
    return Measurement.of([sum(kinds) for kinds in rounds])


def _part_cases(networks: NetworkParts, rows: list[Row]) -> list[Case]:
    """Every part that some row has, once."""
    parts = [*networks, *(part for row in rows for part, _ in row.parts)]
    return list({part.case.name: part.case for part in parts}.values())


def _step_row(row: Row, seconds: dict[str, Measurement]) -> StepRow:
    whole = row_seconds(row.steps, seconds)
    over_floor = whole.ratios_to(seconds["floor"])
    shares: dict[str, float] = {}
    for part, often in row.parts:
        share = seconds[part.case.name].ratios_to(seconds["floor"]).median
        shares[part.kind] = shares.get(part.kind, 0.0) + often * share
    shares[REST] = over_floor.median - sum(shares.values())
    return StepRow(
        row.name,
        whole,
        over_floor,
        tuple(PartShare(kind, share) for kind, share in shares.items()),
        row.steps.store_bytes,
    )
