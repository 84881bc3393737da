"""What the committed table of gradients says is what the formulas give."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from svdistill.networks import build_network

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def measured(load_script: Callable[[str], ModuleType]) -> dict[tuple[str, str], tuple]:
    script = load_script("tap_gradients")
    torch.manual_seed(0)
    student = build_network("vgg_stride_student", 10, 0.25).double().eval()
    teacher = build_network("vgg_teacher", 10, 0.25).double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    found = script.tap_gradients(student, teacher, student.tap_paths, images, 2)
    return {(name, tap): (gradient, exact) for name, tap, gradient, exact in found}


def test_the_exact_gradient_is_its_own_reference(measured: dict) -> None:
    for (name, _), (gradient, exact) in measured.items():
        if name == "exact":
            assert torch.equal(gradient, exact)


def test_the_authors_gradient_is_zero_where_positions_outnumber_channels(measured: dict) -> None:
    for (name, tap), (gradient, exact) in measured.items():
        assert exact.abs().max() > 0
        positions, channels = gradient[0, 0].numel(), gradient.shape[1]
        if name == "authors":
            assert (gradient.abs().max() == 0) == (positions >= channels), tap


def test_the_committed_table_has_every_formula_at_every_tap() -> None:
    path = ROOT / "benchmarks" / "results" / "tap-gradients.json"
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2 * 2 * 3 * 4
    for row in rows:
        if row["gradient"] == "exact":
            assert row["share_of_exact"] == 1.0
        if row["gradient"] == "authors" and row["positions"] >= row["channels"]:
            assert row["norm"] == 0.0
            assert row["cosine"] is None
