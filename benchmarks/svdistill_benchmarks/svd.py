"""What a truncated SVD of the paper's feature maps costs, and how exact it is, by solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svdistill.common import Case, Measurement, interleave
from svdistill.linalg import SOLVERS, truncated_svd, watch_convergence
from svdistill.runs import load_student, read_card, weights_file
from svdistill.taps import FeatureTaps
from svdistill.training import place_network, tap_paths
from svdistill_benchmarks.machine import machine
from svdistill_benchmarks.straightforward import leading_svd
from svdistill_benchmarks.workload import PAIRS, name_of, new_workload, pictures

KEPT = 2  # what a student keeps where its teacher passes on one vector

SEPARATED = 0.01

TORCH = "torch.linalg.svd"


SVD = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SolverRow:
    """A solver on one tap's matrices [B, positions, channels].

    The errors are the worst of the batch against float64: of a value, relative; of a vector,
    ``1 - |cos|``, where its value is 1 % or more from its neighbours; and of ``V^T V`` from 1.
    `again` counts the members that subspace iteration left to `eigh`.
    """

    network: str
    tap: str
    positions: int
    channels: int
    solver: str
    forward: Measurement
    both_ways: Measurement
    value_error: float
    vector_error: float
    orthonormality_error: float
    again: int


@dataclass(frozen=True)
class SVDResult:
    """What `bench_svd` measured, of which feature maps, and on which machine."""

    machine: dict[str, Any]
    batch_size: int
    width: float
    rounds: int
    features: str
    rows: tuple[SolverRow, ...]


def bench_svd(
    pairs: tuple[str, ...] = ("vgg", "mobilenet"),
    *,
    batch_size: int = 128,
    width: float = 1.0,
    rounds: int = 10,
    device: torch.device | str = "cpu",
    teacher: str | None = None,
    data: str | None = None,
) -> SVDResult:
    """Time every solver on a teacher's feature maps, forward and both ways; k = 2.

    Args:
        pairs: keys of `PAIRS`, whose freshly initialised teachers are run; not read where a
            `teacher` is given.
        batch_size: images.
        width: factor on the fresh networks' channels.
        rounds: how often everything is timed, after one round that does not count.
        device: where.
        teacher: run directory or weights file of a trained network.
        data: its test images' source, see `load_images`; noise if not given.

    Returns:
        A row for each solver and tap.

    Raises:
        ArgumentError, DataError, RunError: a count, the data or the weights are not usable.
    """
    device = torch.device(device)
    networks = _networks(pairs, batch_size, width, device, teacher, data)
    rows: list[SolverRow] = []
    for name, (network, images) in networks.items():
        paths = tap_paths("teacher", network, [])
        with torch.no_grad():
            features = FeatureTaps(network, paths).run(images).features
        for path, feature in zip(paths, features, strict=True):
            rows += _tap_rows(name, path, feature.flatten(2).mT, rounds)
    described = f"{'fresh' if teacher is None else 'trained'} weights, {name_of(data)}"
    return SVDResult(machine(), batch_size, width, rounds, described, tuple(rows))


def _networks(
    pairs: Sequence[str],
    batch_size: int,
    width: float,
    device: torch.device,
    teacher: str | None,
    data: str | None,
) -> dict[str, tuple[nn.Module, Tensor]]:
    """The networks to run, by name, each with a batch of images."""
    if teacher is None:
        workloads = {
            PAIRS[pair][0]: new_workload(
                pair, batch_size=batch_size, device=device, width=width, data=data
            )
            for pair in pairs
        }
        return {name: (work.teacher, work.images) for name, work in workloads.items()}
    network = load_student(teacher)
    place_network(network, device)
    card = read_card(weights_file(Path(teacher)))
    assert card is not None  # load_student
    images = (
        new_workload("vgg", batch_size=batch_size, device=device, width=width).images
        if data is None
        else pictures(data, batch_size, card)
    )
    return {card.network: (network, images.to(device, memory_format=torch.channels_last))}


def _tap_rows(network: str, tap: str, matrices: Tensor, rounds: int) -> list[SolverRow]:
    k = min(KEPT, *matrices.shape[1:])
    solvers: dict[str, SVD] = {
        TORCH: leading_svd,
        **{name: partial(truncated_svd, solver=name) for name in SOLVERS},
    }
    cases = [
        Case(f"{name} {way}", run)
        for name, svd in solvers.items()
        for way, run in _both_ways(svd, matrices, k)
    ]
    measured = iter(interleave(cases, rounds, device=matrices.device))
    exact = _exact(matrices)
    positions, channels = matrices.shape[1:]
    rows = []
    for name, svd in solvers.items():
        with watch_convergence(matrices.device) as watch:
            errors = _errors(svd(matrices, k), exact, k)
        times = (next(measured), next(measured))
        rows.append(
            SolverRow(network, tap, positions, channels, name, *times, *errors, int(watch.missed))
        )
    return rows


def _both_ways(svd: SVD, matrices: Tensor, k: int) -> list[tuple[str, Callable[[], object]]]:
    """A forward pass alone, and one with the backward pass of the vectors."""
    leaf = matrices.detach().clone().requires_grad_()
    gradient = torch.randn_like(svd(matrices, k)[1])

    def forward() -> None:
        with torch.no_grad():
            svd(matrices, k)

    def both() -> None:
        torch.autograd.grad(svd(leaf, k)[1], leaf, gradient)

    return [("forward", forward), ("both ways", both)]


def _exact(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """All values [B, m] and right vectors [B, D, m] in float64."""
    _, values, right_T = torch.linalg.svd(matrices.double(), full_matrices=False)
    return values, right_T.mT


def _errors(
    actual: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], k: int
) -> tuple[float, float, float]:
    values, vectors = (part.double() for part in actual)
    true_values, true_vectors = exact
    value_error = (values / true_values[:, :k] - 1).abs().amax()
    cosine = (vectors * true_vectors[..., :k]).sum(1).abs()
    vector_error = torch.where(_separated(true_values)[:, :k], 1 - cosine, 0.0).amax()
    identity = torch.eye(k, dtype=vectors.dtype, device=vectors.device)
    return (
        float(value_error),
        float(vector_error),
        float((vectors.mT @ vectors - identity).abs().amax()),
    )


def _separated(values: Tensor) -> Tensor:
    """Which values [B, m] differ from both neighbours by a hundredth or more of themselves."""
    gaps = values[:, :-1] - values[:, 1:]
    edge = values.new_full((len(values), 1), torch.inf)
    nearest_gap = torch.minimum(torch.cat([edge, gaps], 1), torch.cat([gaps, edge], 1))
    return nearest_gap >= SEPARATED * values
