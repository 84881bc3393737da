"""Accuracy and cost of a teacher, and of its student before and after distillation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from svdistill.common import Case, interleave, read_plain, write_json
from svdistill.networks import profile_network

LATENCY_ROUNDS: Final = 20


@dataclass(frozen=True)
class NetworkFigures:
    """Accuracy and cost of a network.

    Attributes:
        accuracy: percentage of the test images.
        parameters, flops: the FLOPs (2 x multiply-adds) for one image.
        bytes: of its weights and buffers.
        milliseconds: median latency for one image on the CPU.
    """

    accuracy: float
    parameters: int
    flops: int
    bytes: int
    milliseconds: float


@dataclass(frozen=True)
class BeforeAfter:
    """A distillation's networks, on the same test images and machine.

    Attributes:
        test_images: their number.
        threads: torch's threads during the timing.
        teacher: None for a knowledge store.
        before, after: the student before and after training.
    """

    test_images: int
    threads: int
    teacher: NetworkFigures | None
    before: NetworkFigures
    after: NetworkFigures

    def rows(self) -> dict[str, NetworkFigures]:
        """The networks by their names in tables."""
        named = {
            "teacher": self.teacher,
            "student before": self.before,
            "student after": self.after,
        }
        return {name: figures for name, figures in named.items() if figures is not None}


@dataclass(frozen=True)
class Accuracies:
    """Percentages of the same test images; None for a teacher that is absent."""

    test_images: int
    teacher: float | None
    before: float
    after: float


def measure_before_after(
    teacher: nn.Module | None,
    student: nn.Module,
    image_shape: Sequence[int],
    accuracies: Accuracies,
) -> BeforeAfter:
    """Count and time a teacher and its student on the CPU, interleaved.

    Args:
        teacher: on any device; not changed.
        student: on any device; not changed.
        image_shape: of one image, ``(3, H, W)``.
        accuracies: of both.
    """
    networks = [network for network in (teacher, student) if network is not None]
    image = torch.randn(1, *image_shape).contiguous(memory_format=torch.channels_last)
    costs = [_costs(network, image_shape) for network in networks]
    with torch.inference_mode():
        copies = [copy.deepcopy(network).cpu().eval() for network in networks]
        cases = [Case("", partial(network, image)) for network in copies]
        times = [1e3 * timed.median for timed in interleave(cases, LATENCY_ROUNDS)]

    def figures(number: int, accuracy: float) -> NetworkFigures:
        return NetworkFigures(accuracy, *costs[number], times[number])

    return BeforeAfter(
        test_images=accuracies.test_images,
        threads=torch.get_num_threads(),
        teacher=None
        if teacher is None or accuracies.teacher is None
        else figures(0, accuracies.teacher),
        before=figures(-1, accuracies.before),
        after=figures(-1, accuracies.after),
    )


def write_before_after(path: Path, measured: BeforeAfter) -> None:
    """Write the measurements as JSON, atomically."""
    write_json(path, asdict(measured))


def read_before_after(path: str | Path) -> BeforeAfter | None:
    """Read the figures of a finished run; None if it has none.

    Args:
        path: a run directory.

    Raises:
        RunError: it is damaged.
    """
    file = Path(path) / "before_after.json"
    if not file.exists():
        return None
    return read_plain(
        file,
        BeforeAfter,
        expected="a teacher's and a student's figures",
        remedy="remove it; the rest of the run does not need it",
    )


def _costs(network: nn.Module, image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Parameters, FLOPs and bytes."""
    profile = profile_network(network, image_shape)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return profile.parameters, profile.flops, size
