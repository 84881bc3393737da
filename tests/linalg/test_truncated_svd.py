"""`truncated_svd` against torch's full SVD in float64, where its spectrum is well separated."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from references import fix_signs, full_svd, relative_error, separated
from svdistill.common.errors import ArgumentError
from svdistill.linalg import truncated_svd

SOLVERS = ["auto", "gram", "svd"]
SHAPES = [(9, 4), (4, 9), (5, 5), (1, 6), (6, 1), (1, 1)]
# Every number of vectors that each shape allows.
CASES = [(n, d, k) for n, d in SHAPES for k in range(1, min(n, d) + 1)]
VALUE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def loss_of(svd, matrix, k):
    """A smooth function of values and vectors that no symmetry makes simple."""
    values, vectors = svd(matrix, k)
    weights = torch.linspace(-1, 1.7, vectors.numel(), dtype=vectors.dtype).view_as(vectors)
    return (weights * vectors + 0.5 * vectors**3).sum() + values.log().sum()


def gradient_of(svd, matrix, k):
    matrix = matrix.clone().requires_grad_()
    loss_of(svd, matrix, k).backward()
    return matrix.grad


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), CASES)
def test_equals_the_full_svd(n, d, k, dtype, solver):
    matrix = separated(n, d).to(dtype)
    svd = truncated_svd(matrix, k, solver=solver)
    values, vectors = full_svd(matrix.double(), k)
    assert svd.singular_values.shape == (k,)
    assert svd.right_vectors.shape == (d, k)
    assert svd.singular_values.dtype == svd.right_vectors.dtype == dtype
    assert relative_error(svd.singular_values, values) < VALUE_TOLERANCE[dtype]
    assert relative_error(svd.right_vectors, vectors) < VALUE_TOLERANCE[dtype]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), CASES)
def test_gradient_equals_the_full_svd(n, d, k, dtype, solver):
    matrix = separated(n, d).to(dtype)
    actual = gradient_of(lambda m, k: truncated_svd(m, k, solver=solver), matrix, k)
    expected = gradient_of(full_svd, matrix.double(), k)
    assert actual.dtype == dtype
    assert relative_error(actual, expected) < GRADIENT_TOLERANCE[dtype]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(64, 24), (24, 64), (256, 16), (4, 128)])
def test_batches_of_the_size_of_feature_maps(shape, solver):
    matrices = torch.stack([separated(*shape, seed=seed) for seed in range(6)]).view(2, 3, *shape)
    single = matrices.float()
    svd = truncated_svd(single, 3, solver=solver)
    values, vectors = full_svd(single.double(), 3)
    assert svd.singular_values.shape == (2, 3, 3)
    assert svd.right_vectors.shape == (2, 3, shape[1], 3)
    assert relative_error(svd.singular_values, values) < 1e-5
    assert relative_error(svd.right_vectors, vectors) < 1e-4  # gaps here are 2 % of the largest
    actual = gradient_of(lambda m, k: truncated_svd(m, k, solver=solver), matrices, 3)
    assert relative_error(actual, gradient_of(full_svd, matrices, 3)) < 1e-10


def test_a_batch_is_its_matrices_one_by_one():
    matrices = torch.stack([separated(7, 5, seed=seed) for seed in range(4)])
    together = gradient_of(truncated_svd, matrices, 2)
    # loss_of weights entries by position in the batch, so the reference is batched as well.
    torch.testing.assert_close(together, gradient_of(full_svd, matrices, 2))
    svd = truncated_svd(matrices, 2)
    for index, matrix in enumerate(matrices):
        alone = truncated_svd(matrix, 2)
        torch.testing.assert_close(svd.singular_values[index], alone.singular_values)
        torch.testing.assert_close(svd.right_vectors[index], alone.right_vectors)


def test_an_empty_batch_gives_an_empty_batch():
    svd = truncated_svd(torch.zeros(0, 5, 3), 2)
    assert svd.singular_values.shape == (0, 2)
    assert svd.right_vectors.shape == (0, 3, 2)


def test_strided_input():
    feature = separated(6, 20).view(6, 4, 5).permute(1, 2, 0)  # [H, W, D], not contiguous
    matrix = feature.flatten(0, 1)
    torch.testing.assert_close(
        gradient_of(truncated_svd, matrix, 2), gradient_of(full_svd, matrix.contiguous(), 2)
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d", "k"), [(6, 3, 1), (6, 3, 3), (3, 6, 2), (3, 6, 3), (4, 4, 2)])
def test_gradcheck_sign_invariant(n, d, k, solver):
    def projectors(matrix):
        values, vectors = truncated_svd(matrix, k, solver=solver)
        return values, vectors[..., :, None, :] * vectors[..., None, :, :]

    matrix = separated(n, d).expand(2, n, d).clone()
    matrix[1] += 0.1 * separated(n, d, seed=1)
    assert torch.autograd.gradcheck(projectors, matrix.requires_grad_(), fast_mode=False)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d", "k"), [(6, 3, 1), (6, 3, 3), (3, 6, 2), (1, 4, 1), (4, 1, 1)])
def test_gradcheck_sign_fixed(n, d, k, solver):
    def outputs(matrix):
        return tuple(truncated_svd(matrix, k, solver=solver))

    assert torch.autograd.gradcheck(outputs, separated(n, d).requires_grad_(), fast_mode=False)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e30])
@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9)])
def test_scale_of_the_input_changes_only_the_values(n, d, scale, solver):
    def vectors_only(matrix):
        matrix = matrix.clone().requires_grad_()
        svd = truncated_svd(matrix, 2, solver=solver)
        svd.right_vectors.pow(3).sum().backward()
        return svd.singular_values, svd.right_vectors, matrix.grad

    matrix = separated(n, d).float()
    values, vectors, gradient = vectors_only(matrix)
    scaled_values, scaled_vectors, scaled_gradient = vectors_only(matrix * scale)
    assert relative_error(scaled_values, values * scale) < 1e-5
    assert relative_error(scaled_vectors, vectors) < 1e-5
    assert relative_error(scaled_gradient, gradient / scale) < 1e-4


def test_sign_convention():
    for seed in range(20):
        matrix = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(seed))
        vectors = truncated_svd(matrix, 3).right_vectors
        torch.testing.assert_close(vectors, fix_signs(vectors), rtol=0, atol=0)
        torch.testing.assert_close(vectors, truncated_svd(-matrix, 3).right_vectors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input(dtype):
    matrix = separated(9, 4).to(dtype).requires_grad_()
    svd = truncated_svd(matrix, 2)
    assert svd.singular_values.dtype == svd.right_vectors.dtype == dtype
    (svd.right_vectors.float() ** 3).sum().backward()
    assert matrix.grad.dtype == dtype
    # Rounded once at each end, computed in between as float32.
    exact = matrix.detach().float().requires_grad_()
    expected = truncated_svd(exact, 2)
    assert torch.equal(svd.right_vectors, expected.right_vectors.to(dtype))
    assert torch.equal(svd.singular_values, expected.singular_values.to(dtype))
    (expected.right_vectors**3).sum().backward()
    assert relative_error(matrix.grad, exact.grad) < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("solver", SOLVERS)
def test_autocast_changes_nothing(solver):
    def run():
        matrix = separated(40, 9).float().requires_grad_()
        svd = truncated_svd(matrix, 3, solver=solver)
        (svd.right_vectors**3).sum().backward()
        return svd.singular_values, svd.right_vectors, matrix.grad

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run()
    for left, right in zip(actual, expected, strict=True):
        assert left.dtype == torch.float32
        assert torch.equal(left, right)


@pytest.mark.parametrize("gradient", ["exact", "poster"])
@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9)])
def test_compiled_and_eager_agree(n, d, gradient):
    def run(matrix):
        values, vectors = truncated_svd(matrix, 2, gradient=gradient)
        return (vectors**3).sum() + (values**2).sum()

    eager = separated(n, d).requires_grad_()
    compiled = eager.detach().clone().requires_grad_()
    expected = run(eager)
    actual = torch.compile(run, backend="aot_eager", fullgraph=True)(compiled)
    torch.testing.assert_close(actual, expected)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_no_gradient_where_none_is_asked_for():
    assert not truncated_svd(separated(5, 3), 2).right_vectors.requires_grad
    with torch.no_grad():
        assert not truncated_svd(separated(5, 3).requires_grad_(), 2).right_vectors.requires_grad


@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 6), (4, 4)])
def test_second_derivatives(n, d):
    matrix = separated(n, d)[None]
    reference, ours = (partial(loss_of, function, k=2) for function in (full_svd, truncated_svd))
    expected = torch.autograd.functional.hessian(reference, matrix)
    torch.testing.assert_close(torch.autograd.functional.hessian(ours, matrix), expected)
    torch.testing.assert_close(torch.func.hessian(ours)(matrix), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(ours))(matrix), expected)


@pytest.mark.parametrize("gradient", ["poster", "authors"])
def test_what_is_no_derivative_refuses_to_be_differentiated(gradient):
    def run(matrix):
        return (truncated_svd(matrix, 2, gradient=gradient).right_vectors ** 3).sum()

    matrix = separated(3, 5).requires_grad_()
    (expected,) = torch.autograd.grad(run(matrix), matrix)
    (tracked,) = torch.autograd.grad(run(matrix), matrix, create_graph=True)
    torch.testing.assert_close(tracked, expected)
    torch.testing.assert_close(torch.func.grad(run)(matrix.detach()), expected)
    for refused in (
        lambda: tracked.sum().backward(),
        lambda: torch.func.jacfwd(run)(matrix.detach()),
        lambda: torch.func.hessian(run)(matrix.detach()),
    ):
        with pytest.raises(ArgumentError, match="gradient: expected 'exact'"):
            refused()


def test_vmap_is_a_batch():
    batch = torch.stack([separated(6, 4, seed) for seed in range(6)]).view(2, 3, 6, 4)
    mapped = torch.func.vmap(partial(truncated_svd, k=2), in_dims=1, out_dims=1)(batch)
    for actual, expected in zip(mapped, truncated_svd(batch, 2), strict=True):
        torch.testing.assert_close(actual, expected)
    ours = partial(loss_of, truncated_svd, k=2)
    each = torch.func.vmap(torch.func.grad(ours))(batch[0])
    torch.testing.assert_close(each, torch.stack([torch.func.grad(ours)(one) for one in batch[0]]))


def test_forward_mode_outside_of_functional_transforms():
    matrix, direction = separated(6, 4), separated(6, 4, seed=1)
    with forward_ad.dual_level():
        moved = truncated_svd(forward_ad.make_dual(matrix, direction), 2)
        actual = [forward_ad.unpack_dual(part).tangent for part in moved]
    _, expected = torch.func.jvp(partial(full_svd, k=2), (matrix,), (direction,))
    torch.testing.assert_close(actual[0], expected[0])


@pytest.mark.parametrize("solver", ["auto", "subspace"])
def test_a_large_compiled_matrix(solver):
    matrix = separated(64, 40).float()[None]
    run = partial(truncated_svd, k=2, solver=solver)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(matrix)
    torch.testing.assert_close(compiled, run(matrix), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_tracing_leaves_nothing_behind(mode):
    matrix = separated(64, 40).float()[None]
    run = partial(truncated_svd, k=1, solver="subspace")
    traced = make_fx(run, tracing_mode=mode)(matrix)
    with FakeTensorMode():
        assert run(torch.empty(1, 48, 30)).right_vectors.shape == (1, 30, 1)
    torch.testing.assert_close(tuple(traced(matrix)), tuple(run(matrix)), rtol=1e-4, atol=1e-4)
    assert type(run(torch.rand(1, 48, 30)).right_vectors) is torch.Tensor


def test_only_one_output_used():
    for use in (0, 1):
        matrix = separated(6, 4).requires_grad_()
        (truncated_svd(matrix, 2)[use] ** 3).sum().backward()
        reference = separated(6, 4).requires_grad_()
        (full_svd(reference, 2)[use] ** 3).sum().backward()
        torch.testing.assert_close(matrix.grad, reference.grad)


BAD_CALLS = {
    "k of zero": (torch.rand(4, 3), 0, {}, "k"),
    "negative k": (torch.rand(4, 3), -1, {}, "k"),
    "k above the rank": (torch.rand(4, 3), 4, {}, "k"),
    "k not an integer": (torch.rand(4, 3), 1.5, {}, "k"),
    "integers": (torch.ones(4, 3, dtype=torch.int64), 1, {}, "matrices"),
    "complex": (torch.ones(4, 3, dtype=torch.complex64), 1, {}, "matrices"),
    "a vector": (torch.rand(4), 1, {}, "matrices"),
    "a misspelt gradient": (torch.rand(4, 3), 1, {"gradient": "exakt"}, "gradient"),
    "a misspelt solver": (torch.rand(4, 3), 1, {"solver": "qr"}, "solver"),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_input_is_refused_by_name(call):
    matrices, k, options, argument = call
    with pytest.raises(ArgumentError, match=f"^{argument}: expected"):
        truncated_svd(matrices, k, **options)
