"""What the distance of two DFVs costs, written out and by `dfv_distance`, in time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from svdistill.common import Case, Measurement, interleave, require_count
from svdistill.losses import dfv_distance
from svdistill_benchmarks.machine import machine, peak_memory
from svdistill_benchmarks.straightforward import explicit_distance

SIZES = ((64, 128), (128, 256), (256, 512))  # channels of consecutive taps of the VGG networks

VECTORS = (1, 4, 16)


Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

WAYS: dict[str, Distance] = {"explicit": explicit_distance, "dfv_distance": dfv_distance}


@dataclass(frozen=True)
class DFVRow:
    """A way to compute the distance and its gradient.

    `peak_bytes` is what a process of its own needed at most, above its inputs. The errors are
    relative, against the definition in float64: of the distance, and of its gradient's norm.
    """

    way: str
    front: int
    back: int
    vectors: int
    seconds: Measurement
    peak_bytes: int
    value_error: float
    gradient_error: float


@dataclass(frozen=True)
class DFVResult:
    """What `bench_dfv` measured, and on which machine."""

    machine: dict[str, Any]
    batch_size: int
    rounds: int
    rows: tuple[DFVRow, ...]


def bench_dfv(
    *,
    batch_size: int = 128,
    rounds: int = 5,
    device: torch.device | str = "cpu",
    sizes: tuple[tuple[int, int], ...] = SIZES,
    vectors: tuple[int, ...] = VECTORS,
) -> DFVResult:
    """Time the distance with its gradient, both ways of computing it side by side; beta = 8.

    Args:
        batch_size: images.
        rounds: how often everything is timed, after one round that does not count.
        device: where.
        sizes: channels of the front and the back tap.
        vectors: how many singular vectors.

    Returns:
        A row for each way, size and number of vectors.

    Raises:
        ArgumentError: a count below 1.
    """
    require_count("batch_size", batch_size)
    device = torch.device(device)
    rows: list[DFVRow] = []
    for front, back in sizes:
        for k in vectors:
            sides = unit_vectors(batch_size, front, back, k, device)
            cases = [Case(way, partial(with_gradient, way, sides)) for way in WAYS]
            measured = interleave(cases, rounds, device=device)
            expected = _expected(sides)
            for way, seconds in zip(WAYS, measured, strict=True):
                shape = (batch_size, front, back, k, device)
                peak = peak_memory(partial(with_gradient, way), partial(unit_vectors, *shape))
                errors = _errors(with_gradient(way, sides), expected)
                rows.append(DFVRow(way, front, back, k, seconds, peak, *errors))
    return DFVResult(machine(), batch_size, rounds, tuple(rows))


def unit_vectors(
    batch_size: int, front: int, back: int, k: int, device: torch.device
) -> list[Tensor]:
    """Orthonormal vectors over sqrt(k), as the loss weights them: student, teacher; front, back."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.linalg.qr(torch.randn(batch_size, channels, k, generator=generator))[0].to(device)
        / k**0.5
        for channels in (front, back, front, back)
    ]


def with_gradient(way: str, sides: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The distance, and its gradients for the student's vectors as one vector."""
    student = [side.detach().requires_grad_() for side in sides[:2]]
    value = WAYS[way](*student, *sides[2:])
    gradients = torch.autograd.grad(value, student)
    return value.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def _expected(sides: list[Tensor]) -> tuple[Tensor, Tensor]:
    """In float64, one image at a time: the whole batch would not fit."""
    values, gradients = [], []
    for image in range(len(sides[0])):
        value, gradient = with_gradient(
            "explicit", [side[image : image + 1].double() for side in sides]
        )
        values.append(value)
        gradients.append(gradient.split([side[0].numel() for side in sides[:2]]))
    fronts, backs = zip(*gradients, strict=True)
    return torch.stack(values).sum(), torch.cat([*fronts, *backs])


def _errors(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> tuple[float, float]:
    value, gradient = (
        float((mine.double() - true).norm() / true.norm())
        for mine, true in zip(actual, expected, strict=True)
    )
    return value, gradient
