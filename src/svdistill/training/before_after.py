"""What a distillation has come to: teacher, student before, student after, side by side."""

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
    """How good a network is, and what it costs.

    Attributes:
        accuracy: percentage of the test images.
        parameters, flops: the FLOPs (2 x multiply-adds) for one image.
        bytes: of its weights and buffers.
        milliseconds: for one image on the CPU, the median of some passes.
    """

    accuracy: float
    parameters: int
    flops: int
    bytes: int
    milliseconds: float


@dataclass(frozen=True)
class BeforeAfter:
    """A distillation's networks on the same test images and the same machine.

    Attributes:
        test_images: their number.
        threads: that torch used for the times.
        teacher: None where the student learnt from a knowledge store.
        before, after: the student as it was given, and as it was trained.
    """

    test_images: int
    threads: int
    teacher: NetworkFigures | None
    before: NetworkFigures
    after: NetworkFigures

    def rows(self) -> dict[str, NetworkFigures]:
        """The networks that there are, by the names that tables give them."""
        named = {
            "teacher": self.teacher,
            "student before": self.before,
            "student after": self.after,
        }
        return {name: figures for name, figures in named.items() if figures is not None}


@dataclass(frozen=True)
class Accuracies:
    """Percentages of the same test images; the teacher's is None where there is none."""

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
    """Count and time a teacher and its student, in turn on the CPU.

    Args:
        teacher: on any device; it and the student are left as they are.
        student: likewise.
        image_shape: of one image, ``(3, H, W)``.
        accuracies: what was measured of them.
    """
    networks = [network for network in (teacher, student) if network is not None]
    figures = [_costs(network, image_shape) for network in networks]
    image = torch.randn(1, *image_shape).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        cases = [Case("", partial(_on_cpu(network), image)) for network in networks]
        times = [1e3 * timed.median for timed in interleave(cases, LATENCY_ROUNDS)]
    costs = [
        partial(NetworkFigures, parameters=parameters, flops=flops, bytes=size, milliseconds=time)
        for (parameters, flops, size), time in zip(figures, times, strict=True)
    ]
    return BeforeAfter(
        test_images=accuracies.test_images,
        threads=torch.get_num_threads(),
        teacher=None
        if accuracies.teacher is None or teacher is None
        else costs[0](accuracies.teacher),
        before=costs[-1](accuracies.before),
        after=costs[-1](accuracies.after),
    )


def write_before_after(path: Path, measured: BeforeAfter) -> None:
    """Write it as JSON, atomically."""
    write_json(path, asdict(measured))


def read_before_after(path: str | Path) -> BeforeAfter | None:
    """What a finished run has come to, or None where it does not say.

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


def _on_cpu(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().eval()
