"""How long a trained network takes for one image, on the machine that writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import nn

from svdistill.errors import SVDistillError
from svdistill.networks import profile_network
from svdistill.report.rebuilding import Missing, build_student
from svdistill.report.runs import Run
from svdistill.timing import Case, Measurement, interleave
from svdistill.training.run_directory import environment

ROUNDS: Final = 30
WARM_UP: Final = 5


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one image, batch size 1, on the CPU, in evaluation mode.

    Attributes:
        network, parameters, flops: of the network, as in the summaries of its runs.
        milliseconds: the median of all passes.
        lower, upper: quartiles.
        threads: that torch used.
        processor: that it ran on.
    """

    network: str
    parameters: int
    flops: int
    milliseconds: float
    lower: float
    upper: float
    threads: int
    processor: str

    def is_of(self, run: Run) -> bool:
        """Whether a run trained this network."""
        return (self.network, self.parameters, self.flops) == _identity(run)


@dataclass(frozen=True)
class Latencies:
    """What was timed, in the order in which the networks first come, and why others were not."""

    networks: tuple[Latency, ...] = ()
    left_out: tuple[str, ...] = ()


def measure_latencies(runs: Sequence[Run]) -> Latencies:
    """Time each network of some runs once, one pass of each in turn.

    What slows the machine down for a while so falls on all of them alike. Weights do not matter
    and are not read.

    Args:
        runs: of any networks.

    Returns:
        A latency for each distinct network that can be built again, and for each other a sentence.
    """
    distinct = list({_identity(run): run for run in reversed(runs)}.values())[::-1]
    timed, cases, left_out = [], [], []
    for run in distinct:
        try:
            network, image = rebuild(run)
        except (Missing, SVDistillError) as reason:
            left_out.append(f"{run.pair} was not timed: {reason}.")
        else:
            timed.append(run)
            cases.append(Case(run.summary.network, partial(network, image)))
    with torch.inference_mode():
        times = interleave(cases, ROUNDS, warm_up=WARM_UP)
    latencies = tuple(_sum_up(run, time) for run, time in zip(timed, times, strict=True))
    return Latencies(latencies, tuple(left_out))


def rebuild(run: Run) -> tuple[nn.Module, torch.Tensor]:
    """The network of a run with random weights, in evaluation mode, and a blank image [1, 3, S, S].

    Raises:
        Missing: it cannot be built from what the run left, or is no longer built as it was.
        SVDistillError: its library is missing, or no longer has it.
    """
    network, side = build_student(run), run.summary.image_size
    shape = (3, side, side)
    profile = profile_network(network, shape)
    if (profile.parameters, profile.flops) != (run.summary.parameters, run.summary.flops):
        raise Missing(
            f"{run.path} counted {run.summary.parameters:,} parameters and {run.summary.flops:,} "
            f"FLOPs, and what is built by its name now {profile.parameters:,} and {profile.flops:,}"
        )
    return network, torch.zeros(1, *shape)


def _identity(run: Run) -> tuple[str, int, int]:
    return run.summary.network, run.summary.parameters, run.summary.flops


def _sum_up(run: Run, seconds: Measurement) -> Latency:
    machine = environment()
    return Latency(
        *_identity(run),
        milliseconds=1e3 * seconds.median,
        lower=1e3 * seconds.lower_quartile,
        upper=1e3 * seconds.upper_quartile,
        threads=machine["threads"],
        processor=str(machine["processor"]),
    )
