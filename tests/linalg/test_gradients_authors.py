"""The gradient of the authors' code: none for tall maps, and no coupling of vectors elsewhere."""

import numpy as np
import pytest
import torch

from references import poster_gradient, separated
from svdistill.linalg import truncated_svd
from svdistill.losses import SVDLoss


def vector_gradient(matrix, weights, gradient):
    matrix = matrix.clone().requires_grad_()
    svd = truncated_svd(matrix, weights.shape[1], gradient=gradient)
    (weights * svd.right_vectors).sum().backward()
    return matrix.grad


def random_weights(rows, columns):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def without_coupling(matrix, vectors_grad, k):
    """``U E^T - U (E^T V)_diag V^T`` of one matrix, in numpy."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    v = vt[:k].T
    signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(k)])
    u, v = u[:, :k] * signs, v * signs
    E = vectors_grad / s[:k]
    return u @ E.T - u @ np.diag(np.diag(E.T @ v)) @ v.T


@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 4), (256, 64), (5, 1)])
def test_zero_with_as_many_positions_as_channels(n, d):
    for k in {1, min(2, d), d}:
        assert (vector_gradient(separated(n, d), random_weights(d, k), "authors") == 0).all()


@pytest.mark.parametrize(("n", "d"), [(4, 9), (3, 4), (1, 5)])
def test_equals_the_formula_without_its_last_term(n, d):
    for k in range(1, n + 1):
        matrix, weights = separated(n, d), random_weights(d, k)
        expected = torch.from_numpy(without_coupling(matrix.numpy(), weights.numpy(), k))
        actual = vector_gradient(matrix, weights, "authors")
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        assert actual.norm() > 0.1
        # One vector has nothing to be coupled with.
        printed = torch.from_numpy(poster_gradient(matrix.numpy(), weights.numpy(), k))
        assert torch.allclose(actual, printed) == (k == 1)


def test_a_batch_is_its_members():
    matrices = torch.stack([separated(3, 7, seed=seed) for seed in range(4)])
    weights = random_weights(7, 2)
    together = vector_gradient(matrices, weights, "authors")
    for matrix, gradient in zip(matrices, together, strict=True):
        torch.testing.assert_close(gradient, vector_gradient(matrix, weights, "authors"))


def test_singular_values_receive_no_gradient():
    matrix = separated(3, 7).requires_grad_()
    truncated_svd(matrix, 2, gradient="authors").singular_values.sum().backward()
    assert matrix.grad is None or (matrix.grad == 0).all()


def test_of_the_loss_only_the_last_taps_reach_the_student():
    """As in a VGG, where only the late maps have fewer positions than channels."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 6, 4, 4), (3, 16, 4, 4), (3, 20, 2, 2)]
    teacher, student = ([torch.rand(*s, generator=generator) for s in shapes] for _ in range(2))
    student = [feature_map.requires_grad_() for feature_map in student]
    loss = SVDLoss(num_vectors=2, gradient="authors")
    loss(student, None, loss.extract(teacher, None)).backward()
    assert [bool(feature_map.grad.any()) for feature_map in student] == [False, False, True]
