from pathlib import Path

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.linalg.solvers import SOLVERS
from svdistill.networks import build_network
from svdistill.runs.weights import WeightsCard, save_weights
from svdistill_benchmarks.svd import TORCH, SVDResult, _errors, _separated, bench_svd


@pytest.fixture(scope="module")
def result() -> SVDResult:
    return bench_svd(("vgg",), batch_size=4, width=0.25, rounds=1)


def test_a_row_for_each_tap_and_solver(result: SVDResult) -> None:
    taps = ["stage1", "stage2", "stage3", "stage4"]
    expected = [(tap, solver) for tap in taps for solver in (TORCH, *SOLVERS)]
    assert [(row.tap, row.solver) for row in result.rows] == expected
    assert [(row.positions, row.channels) for row in result.rows if row.solver == TORCH] == [
        (256, 16),
        (64, 32),
        (16, 64),
        (4, 128),
    ]


def test_every_solver_is_exact_to_rounding(result: SVDResult) -> None:
    for row in result.rows:
        assert row.value_error < 1e-3, row
        assert row.vector_error < 1e-3, row
        assert row.orthonormality_error < 1e-4, row


def test_errors_are_what_they_are_called() -> None:
    exact = torch.tensor([[2.0, 1.0]]), torch.eye(2)[None]
    turned = torch.tensor([[[0.8, 0.6], [0.6, -0.8]]])
    values, vectors, orthonormality = _errors((torch.tensor([[2.2, 1.0]]), turned), exact, 2)
    assert values == pytest.approx(0.1)
    assert vectors == pytest.approx(0.2)
    assert orthonormality == pytest.approx(0.0, abs=1e-6)


def test_close_values_are_not_separated() -> None:
    assert _separated(torch.tensor([[3.0, 1.0, 0.999, 0.5]])).tolist() == [
        [True, False, False, True]
    ]


def test_a_trained_networks_maps_of_real_images(tmp_path: Path) -> None:
    weights = tmp_path / "student.safetensors"
    card = WeightsCard("mobilenet_student", 0.125, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3, 16)
    save_weights(weights, build_network("mobilenet_student", 10, 0.125), card)
    result = bench_svd(batch_size=3, rounds=1, teacher=str(tmp_path), data="digits")
    assert {row.network for row in result.rows} == {"mobilenet_student"}
    assert result.features == "trained weights, digits"
    with pytest.raises(ArgumentError, match="batch_size"):
        bench_svd(batch_size=10_000, rounds=1, teacher=str(tmp_path), data="digits")
