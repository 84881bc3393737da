"""`truncated_svd` where the full SVD has no answer: equal, clustered, vanishing, broken values."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from references import (
    central_differences,
    full_svd,
    matrix_with_spectrum,
    relative_error,
    separated,
)
from svdistill.linalg import truncated_svd

SOLVERS = ["auto", "gram", "svd"]

HARD_SPECTRA = {
    "equal": [1.0, 1.0, 1.0, 1.0],
    "equal behind the kept": [1.0, 0.5, 0.5, 0.5],
    "clustered": [1.0, 1.0 - 1e-7, 1.0 - 2e-7, 0.5],
    "close to rounding": [1.0, 1.0 - 1e-15, 1.0 - 2e-15, 1e-3],
    "rank one": [1.0],
    "rank two": [1.0, 0.5],
    "vanishing": [1.0, 1e-4, 1e-8, 1e-20],
    "zero": [0.0],
}


def cubes(vectors):
    """A smooth function of the vectors that no symmetry makes simple."""
    return (vectors**3).sum()


def vector_gradient(matrix, k, solver, gradient="exact"):
    matrix = matrix.clone().requires_grad_()
    cubes(truncated_svd(matrix, k, gradient=gradient, solver=solver).right_vectors).backward()
    return matrix.grad


def check_decomposition(matrices, svd, tolerance):
    """Orthonormal, descending, not negative, and truly singular: `||M v|| = s`."""
    values, vectors = svd.singular_values.detach().double(), svd.right_vectors.detach().double()
    identity = torch.eye(vectors.shape[-1], dtype=torch.float64)
    assert (vectors.mT @ vectors - identity).abs().max() < tolerance
    assert (values >= 0).all()
    assert (values.diff(dim=-1) <= 0).all()
    residual = ((matrices.double() @ vectors).norm(dim=-2) - values).abs()
    scale = torch.linalg.matrix_norm(matrices.double(), 2)
    # A Gram matrix knows a value far below the first only to the square root of rounding.
    zero = max(matrices.shape[-2:]) * torch.finfo(matrices.dtype).tiny  # of subnormal entries
    assert (residual <= tolerance**0.5 * scale[..., None] + zero).all()
    assert (residual[..., 0] <= tolerance * scale + zero).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9), (4, 4)])
@pytest.mark.parametrize("spectrum", HARD_SPECTRA.values(), ids=HARD_SPECTRA.keys())
def test_hard_spectra_stay_finite_and_orthonormal(spectrum, n, d, dtype, solver):
    exact = matrix_with_spectrum(spectrum, n, d)
    for k in (1, 2, 4):
        for gradient in ("exact", "poster", "authors"):
            matrix = exact.to(dtype).requires_grad_()
            svd = truncated_svd(matrix, k, gradient=gradient, solver=solver)
            check_decomposition(matrix.detach(), svd, tolerance=100 * torch.finfo(dtype).eps)
            (svd.singular_values.sum() + cubes(svd.right_vectors)).backward()
            assert matrix.grad.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(8, 4), (4, 8)])
def test_equal_discarded_values_leave_the_kept_gradient_exact(n, d, solver):
    """Autograd through the full SVD gives NaN here; the function itself is smooth."""
    matrix = matrix_with_spectrum([2.0, 1.0, 0.3, 0.3], n, d)
    expected = central_differences(lambda m: cubes(full_svd(m, 2)[1]), matrix)
    assert relative_error(vector_gradient(matrix, 2, solver), expected) < 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(8, 4), (4, 8)])
def test_rank_one_matrix_has_an_exact_gradient(n, d, solver):
    """As dead channels make it: every discarded value is zero."""
    matrix = matrix_with_spectrum([1.5], n, d)
    expected = central_differences(lambda m: cubes(full_svd(m, 1)[1]), matrix)
    assert relative_error(vector_gradient(matrix, 1, solver), expected) < 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(8, 3), (3, 8)])
# Two equal terms cancel over the gap; where that is rounding, the bound on its inverse leaves 1 %.
@pytest.mark.parametrize(("gap", "tolerance"), [(1e-3, 1e-6), (1e-9, 1e-5), (0.0, 1e-2)])
def test_equal_kept_values_leave_their_subspace_smooth(gap, tolerance, n, d, solver):
    """Each vector alone is undefined, but the projector onto both is not, nor is its gradient."""
    weights = torch.linspace(-1, 2, d * d, dtype=torch.float64).view(d, d)

    def on_subspace(vectors):
        return (weights * (vectors @ vectors.mT)).sum()

    matrix = matrix_with_spectrum([1.0, 1.0 - gap, 0.5], n, d).requires_grad_()
    on_subspace(truncated_svd(matrix, 2, solver=solver).right_vectors).backward()
    expected = central_differences(lambda m: on_subspace(full_svd(m, 2)[1]), matrix.detach())
    assert relative_error(matrix.grad, expected) < tolerance


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d"), [(8, 4), (4, 8)])
@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-16, 0.0])
def test_gradient_stays_bounded_as_values_meet(gap, n, d, dtype, solver):
    """The true gradient grows like 1 / gap; ours stops where the gap is rounding."""
    matrix = matrix_with_spectrum([1.0, 1.0 - gap, 1.0 - 2 * gap, 0.5], n, d).to(dtype)
    # The inverse of a gap in s^2 stops at 1 / (64 eps), and at thrice that where a discarded value
    # meets a kept one (two refinements); the gradient of the cubes is at most 3 per vector.
    bound = 3 * 3 * 2 / (64 * torch.finfo(dtype).eps)
    for k in (1, 2, 3):
        assert vector_gradient(matrix, k, solver).norm() < k * bound


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(8, 4), (4, 8)])
def test_what_bounds_the_gradient_does_not_bend_it(n, d, solver):
    """At a gap of 1 % the bound is far away: nothing of it may be left in the gradient."""
    matrix = matrix_with_spectrum([1.0, 0.99, 0.5, 0.2], n, d).float()
    reference = matrix.double().requires_grad_()
    cubes(full_svd(reference, 1)[1]).backward()
    assert relative_error(vector_gradient(matrix, 1, solver), reference.grad) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
def test_all_zero_matrix_receives_no_gradient(n, d, solver):
    matrix = torch.zeros(2, n, d)
    assert (truncated_svd(matrix, 2, solver=solver).singular_values == 0).all()
    assert (vector_gradient(matrix, 2, solver) == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 6)])
def test_a_vector_with_singular_value_zero_passes_no_gradient(n, d, solver):
    matrix = matrix_with_spectrum([2.0, 1.0], n, d).requires_grad_()
    cubes(truncated_svd(matrix, 3, solver=solver).right_vectors[:, 2]).backward()
    assert (matrix.grad == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 6)])
def test_a_broken_matrix_leaves_the_rest_of_the_batch_alone(n, d, broken, solver):
    matrices = torch.stack([separated(n, d, seed=seed) for seed in range(3)])
    expected, gradient = truncated_svd(matrices, 2), vector_gradient(matrices, 2, solver)
    matrices[1, 2, 3] = broken
    svd, broken_gradient = truncated_svd(matrices, 2), vector_gradient(matrices, 2, solver)
    assert svd.singular_values[1].isnan().all()
    assert svd.right_vectors[1].isnan().all()
    assert not broken_gradient[1].isfinite().any()
    for image in (0, 2):
        assert torch.equal(svd.right_vectors[image], expected.right_vectors[image])
        assert torch.equal(broken_gradient[image], gradient[image])


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    spectrum=st.lists(st.floats(0, 1e3), min_size=1, max_size=12),
    solver=st.sampled_from(SOLVERS),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_any_shape_and_spectrum(rows, columns, spectrum, solver, seed, data):
    smaller = min(rows, columns)
    k = data.draw(st.integers(1, smaller), label="k")
    matrix = matrix_with_spectrum(spectrum[:smaller], rows, columns, seed).float()
    check_decomposition(matrix, truncated_svd(matrix, k, solver=solver), tolerance=2e-5)
    assert vector_gradient(matrix, k, solver).isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9)])
@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-38, 1e-36, 1e-32, 1e32, 1e36, 3e38])
def test_the_ends_of_the_range_stay_finite(scale, n, d, solver):
    """Of subnormal numbers alone a matrix counts as zero; a gradient above the range is bounded."""
    matrix = separated(n, d)
    largest = float(matrix.abs().max())
    matrices = torch.stack([matrix, matrix * (scale / largest), matrix]).float().requires_grad_()
    svd = truncated_svd(matrices, 2, solver=solver)
    values, vectors = svd.singular_values.detach().double(), svd.right_vectors
    assert (vectors.mT @ vectors - torch.eye(2)).abs().max() < 1e-5
    (vectors**3).sum().backward()
    assert matrices.grad.isfinite().all()
    # Others in the batch are as they were, to the bit.
    assert torch.equal(matrices.grad[0], vector_gradient(matrix.float(), 2, solver))
    assert torch.equal(matrices.grad[2], matrices.grad[0])
    if scale < torch.finfo(torch.float32).tiny:
        assert (values[1] == 0).all()
        assert (matrices.grad[1] == 0).all()
    else:
        directions = torch.nn.functional.normalize(matrices.grad[:2].double().flatten(1), eps=1e-60)
        assert directions[0] @ directions[1] > 1 - 1e-6


@pytest.mark.parametrize("solver", [*SOLVERS, "subspace"])
@pytest.mark.parametrize("power", [-40, -24, 24])
def test_what_damps_the_gradient_does_not_depend_on_the_scale(power, solver):
    """At 1e-8 the square of a small gap is below the dtype's range; a power of two is exact."""
    gap = 1e-5
    matrix = matrix_with_spectrum([1.0, 1.0 - gap, 1.0 - 2 * gap, 0.5], 40, 30).float()
    expected = vector_gradient(matrix, 2, solver)
    scaled = vector_gradient(matrix * 2.0**power, 2, solver)
    assert torch.equal(scaled * 2.0**power, expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", ["exact", "poster", "authors"])
def test_values_far_below_rounding_do_not_blow_the_gradient_up(gradient, solver):
    """More channels than positions: a left vector is M v over its value; here both are noise."""
    exponents = torch.linspace(-25, 25, 12, dtype=torch.float64)
    noise = torch.randn(4, 12, generator=torch.manual_seed(0), dtype=torch.float64)
    matrix = (noise * 10.0**exponents).float().requires_grad_()
    svd = truncated_svd(matrix, 4, gradient=gradient, solver=solver)
    (svd.singular_values.sum() + cubes(svd.right_vectors)).backward()
    assert matrix.grad.isfinite().all()
    # A value's gradient is at most 1 where it is differentiable, and nothing blows up elsewhere.
    assert matrix.grad.norm() < 1e3


@pytest.mark.parametrize("solver", [*SOLVERS, "subspace"])
def test_float16_gradients_stay_in_range(solver):
    matrices = torch.stack([1e-6 * separated(40, 30), separated(40, 30, seed=1)]).half()
    matrices = matrices.requires_grad_()
    svd = truncated_svd(matrices, 2, solver=solver)
    cubes(svd.right_vectors).backward()
    assert matrices.grad.isfinite().all()
    alone = vector_gradient(matrices[1:].detach(), 2, solver)
    torch.testing.assert_close(matrices.grad[1:], alone, rtol=0, atol=0)
