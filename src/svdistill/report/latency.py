"""How long a trained network takes for one image, on the machine that writes the report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from svdistill.errors import RunError
from svdistill.networks import build_network, profile_network
from svdistill.report.runs import Run
from svdistill.training.run_directory import environment

ROUNDS: Final = 30
WARM_UP: Final = 5
LARGEST_SIDE: Final = 512


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


def measure_latencies(runs: Sequence[Run]) -> list[Latency]:
    """Time each network of some runs once, one pass of each in turn.

    What slows the machine down for a while so falls on all of them alike. Weights do not matter
    and are not read.

    Args:
        runs: of any networks.

    Returns:
        A latency for each distinct network, in the order in which they first come.

    Raises:
        RunError: a network that is no longer built as it was then.
    """
    distinct = list({_identity(run): run for run in reversed(runs)}.values())[::-1]
    networks = [rebuild(run) for run in distinct]
    seconds: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for turn in range(WARM_UP + ROUNDS):
            for (network, image), times in zip(networks, seconds, strict=True):
                start = time.perf_counter()
                network(image)
                if turn >= WARM_UP:
                    times.append(time.perf_counter() - start)
    machine = environment()
    return [_sum_up(run, times, machine) for run, times in zip(distinct, seconds, strict=True)]


def rebuild(run: Run) -> tuple[nn.Module, torch.Tensor]:
    """The network of a run with fresh weights, in evaluation mode, and a blank image [1, 3, S, S].

    A run keeps neither its number of classes nor the side of its images, but it has counted
    parameters, which grow evenly with the classes, and FLOPs, which grow with the side.
    """
    name, width = run.summary.network, run.summary.width

    def build(num_classes: int) -> nn.Module:
        with torch.device("meta"):
            return build_network(name, num_classes, width)

    one, two = (profile_network(build(classes)).parameters for classes in (1, 2))
    classes = 1 + (run.summary.parameters - one) // (two - one)
    side = _side(build(max(1, classes)), run.summary.flops)
    shape = (3, side, side)
    with torch.random.fork_rng(devices=[]):
        network = build_network(name, max(1, classes), width).eval()
    profile = profile_network(network, shape)
    if (profile.parameters, profile.flops) != (run.summary.parameters, run.summary.flops):
        raise RunError(
            str(run.path),
            expected=f"a {name} of {run.summary.parameters:,} parameters and "
            f"{run.summary.flops:,} FLOPs, as the run counted",
            got="another in this version",
            remedy="leave the run out, or train it again",
        )
    return network, torch.zeros(1, *shape)


def _side(network: nn.Module, flops: int) -> int:
    """The largest side of an image for which a network takes no more FLOPs, by bisection."""
    low, high = 1, LARGEST_SIDE
    while low < high:
        middle = (low + high + 1) // 2
        fits = profile_network(network, (3, middle, middle)).flops <= flops
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _identity(run: Run) -> tuple[str, int, int]:
    return run.summary.network, run.summary.parameters, run.summary.flops


def _sum_up(run: Run, seconds: Sequence[float], machine: dict[str, Any]) -> Latency:
    lower, median, upper = statistics.quantiles([1e3 * time for time in seconds], n=4)
    return Latency(
        *_identity(run), median, lower, upper, machine["threads"], str(machine["processor"])
    )
