"""Widening to compute, and what comes back: in range, each member by itself."""

import math

import pytest
import torch

from svdistill.linalg import powers_of_two, to_working
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
