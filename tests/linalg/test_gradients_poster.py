"""The poster's gradient: equal to its printed formula, and wrong where the paper says so."""

import numpy as np
import pytest
import torch

from references import (
    central_differences,
    fix_signs,
    full_svd,
    matrix_with_spectrum,
    poster_gradient,
    separated,
)
from svdistill.linalg import truncated_svd


def vector_gradient(matrix, k, weights, svd):
    matrix = matrix.clone().requires_grad_()
    (weights * svd(matrix, k)[1]).sum().backward()
    return matrix.grad


def poster(matrix, k):
    return truncated_svd(matrix, k, gradient="poster")


def random_weights(rows, columns, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def cosine(left, right):
    return float((left * right).sum() / (left.norm() * right.norm()).clamp_min(1e-300))


@pytest.mark.parametrize("solver", ["auto", "gram", "svd"])
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (n, d, k)
        for n, d in [(9, 4), (4, 9), (4, 4), (1, 5), (5, 1)]
        for k in range(1, min(n, d) + 1)
    ],
)
def test_equals_the_printed_formula(n, d, k, solver):
    matrix, weights = separated(n, d), random_weights(d, k)
    actual = vector_gradient(
        matrix, k, weights, lambda m, k: truncated_svd(m, k, gradient="poster", solver=solver)
    )
    expected = torch.from_numpy(poster_gradient(matrix.numpy(), weights.numpy(), k))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_equals_the_printed_formula_in_a_batch():
    matrices = torch.stack([separated(5, 8, seed=seed) for seed in range(3)])
    weights = random_weights(8, 2)
    actual = vector_gradient(matrices, 2, weights, poster)
    for index, matrix in enumerate(matrices):
        expected = torch.from_numpy(poster_gradient(matrix.numpy(), weights.numpy(), 2))
        torch.testing.assert_close(actual[index], expected)


@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9), (4, 4)])
def test_exact_with_all_vectors(n, d):
    """As a check on the reference too: finite differences know nothing of either formula."""
    matrix, weights = separated(n, d), random_weights(d, 4)
    expected = central_differences(lambda m: (weights * full_svd(m, 4)[1]).sum(), matrix)
    torch.testing.assert_close(
        vector_gradient(matrix, 4, weights, poster), expected, rtol=1e-6, atol=1e-7
    )


def test_exact_gradient_needs_no_more_than_the_kept_vectors():
    matrix, weights = separated(9, 4), random_weights(4, 1)
    expected = central_differences(lambda m: (weights * full_svd(m, 1)[1]).sum(), matrix)
    torch.testing.assert_close(
        vector_gradient(matrix, 1, weights, truncated_svd), expected, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(("n", "d"), [(256, 64), (9, 4), (5, 4)])
def test_zero_for_one_vector_of_a_tall_matrix(n, d):
    matrix, weights = separated(n, d), random_weights(d, 1)
    assert (vector_gradient(matrix, 1, weights, poster) == 0).all()
    assert vector_gradient(matrix, 1, weights, truncated_svd).norm() > 0.1 * weights.norm()


def test_cosine_to_the_true_gradient():
    """With few vectors most of the gradient lies in what the formula drops.

    How much depends on the spectrum: of a feature map's, which falls steeply, five vectors leave
    about 0.3 at this size; of white noise, whose leading values nearly touch, about 0.8.
    """
    cosines = {1: [], 5: [], 32: []}
    for seed in range(10):
        matrix = matrix_with_spectrum(0.7 ** np.arange(32), 96, 32, seed)
        for k, found in cosines.items():
            weights = random_weights(32, k, seed)
            true = vector_gradient(matrix, k, weights, full_svd)
            found.append(cosine(vector_gradient(matrix, k, weights, poster), true))
    assert max(map(abs, cosines[1])) == 0
    assert 0.1 < np.mean(cosines[5]) < 0.5
    assert min(cosines[32]) > 1 - 1e-6


def test_singular_values_receive_no_gradient():
    matrix = separated(5, 8).requires_grad_()
    svd = truncated_svd(matrix, 3, gradient="poster")
    (svd.singular_values**2).sum().backward()
    assert matrix.grad is None or (matrix.grad == 0).all()


def test_forward_is_that_of_the_exact_gradient():
    exact, other = truncated_svd(separated(5, 8), 3), poster(separated(5, 8), 3)
    assert torch.equal(exact.singular_values, other.singular_values)
    assert torch.equal(exact.right_vectors, other.right_vectors)
    assert torch.equal(other.right_vectors, fix_signs(other.right_vectors))
