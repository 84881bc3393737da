"""Widening to compute, and what comes back: in range, each member by itself."""

import math

import pytest
import torch

from svdistill.linalg import full_precision, powers_of_two, to_working
from svdistill.linalg.precision import fitted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_two_to_both_ends_of_the_range(dtype):
    limits = torch.finfo(dtype)
    numbers = torch.tensor([limits.tiny, 1e-30, 0.75, 1.0, 1.5, 3e30, limits.max], dtype=dtype)
    expected = [2.0 ** math.floor(math.log2(x)) for x in numbers.tolist()[:-1]]
    powers = powers_of_two(numbers)
    assert powers[:-1].tolist() == expected
    assert powers[-1].isfinite()  # the rounded logarithm of the largest number is infinity's
    assert 1.0 <= float(numbers[-1] / powers[-1]) < 2.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_needs_no_care_is_an_ordinary_conversion(dtype):
    features = torch.rand(3, 4).to(dtype).requires_grad_()
    working = to_working(features)
    assert (working is features) == (dtype in (torch.float32, torch.float64))
    gradient = torch.randn(3, 4, dtype=working.dtype)
    working.backward(gradient)
    assert torch.equal(features.grad, gradient.to(dtype))


def test_a_float16_gradient_out_of_range_keeps_its_direction_and_its_neighbours():
    features = torch.rand(3, 4, 2).half().requires_grad_()
    gradient = torch.randn(3, 4, 2)
    gradient[1] *= 1e12
    to_working(features).backward(gradient)
    assert features.grad.isfinite().all()
    assert torch.equal(features.grad[[0, 2]], gradient[[0, 2]].half())
    cosine = torch.cosine_similarity(
        features.grad[1].double().view(-1), gradient[1].double().view(-1), 0
    )
    assert cosine > 0.999999
    # A few such gradients can still be added up.
    assert (features.grad + features.grad).isfinite().all()


def test_a_gradient_of_a_scaler_that_overflowed_stays_visible():
    features = torch.rand(2, 3).half().requires_grad_()
    to_working(features).backward(torch.full((2, 3), torch.inf))
    assert not features.grad.isfinite().any()


def test_fitted_takes_the_smaller_factor():
    gradient = torch.tensor([[2.0, -4.0], [2.0, -4.0], [0.0, 0.0]])
    factors = torch.tensor([0.5, 1e30, 1e30])
    expected = [[1.0, -2.0], [4.0, -8.0], [0.0, 0.0]]
    assert fitted(gradient, 8.0, factors).tolist() == expected
    assert fitted(gradient[:0], 8.0).shape == (0, 2)


def float32_state():
    """What every interface says of the precision of float32 products; the errors of some, too."""
    backends = torch.backends
    readers = (
        lambda: backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.fp32_precision,
    )
    state = []
    for read in readers:
        try:
            state.append(read())
        except RuntimeError:
            state.append("raises")
    return state


@pytest.fixture
def restored_precision():
    yield
    torch.set_float32_matmul_precision("highest")
    for interface in (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        interface.fp32_precision = "none"


LOWERED = {
    "older": lambda: torch.set_float32_matmul_precision("high"),
    "older, bf16": lambda: torch.set_float32_matmul_precision("medium"),
    "flag": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "newer": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("lower", LOWERED.values(), ids=LOWERED)
@pytest.mark.usefixtures("restored_precision")
def test_full_precision_in_every_interface_and_as_before_afterwards(lower):
    lower()
    before = float32_state()
    with full_precision(torch.device("cuda")):
        assert torch.backends.cuda.matmul.fp32_precision in ("ieee", "none")
    assert float32_state() == before
    with full_precision(torch.device("cpu")):
        assert torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")
    assert float32_state() == before


@pytest.mark.usefixtures("restored_precision")
def test_an_inherited_precision_stays_inherited():
    torch.backends.fp32_precision = "tf32"
    with full_precision(torch.device("cuda")):
        pass
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
