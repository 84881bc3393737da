"""Subspace iteration: the same vectors as the full decomposition, or computed again and counted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recorded_work import Recordable, recorded
from references import full_svd, matrix_with_spectrum, relative_error
from svdistill.data import Augmentation, load_images
from svdistill.linalg import solvers, truncated_svd, watch_convergence
from svdistill.linalg.subspace import ORTHONORMAL, leading_eigenpairs
from svdistill.networks import build_network, network_names
from svdistill.taps import FeatureTaps

SHAPES = [(256, 64), (64, 128), (96, 96), (300, 128), (1024, 64)]
HARD_SPECTRA = {
    "equal": [1.0] * 64,
    "equal behind the first": [1.0] + [0.5] * 40,
    "clustered": [1.0 - 1e-6 * i for i in range(20)],
    "slowly falling": [1.0 - 0.01 * i for i in range(64)],
    "rank one": [1.0],
    "rank two": [1.0, 0.5],
    "vanishing": [1.0, 1e-3, 1e-6, 1e-20],
    "zero": [0.0],
}


def like_feature_maps(rows: int, columns: int, batch: int = 16, seed: int = 0) -> Tensor:
    """Positive, a few strong directions and a long tail. [B, N, D], float64."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, rows, 8, generator=generator, dtype=torch.float64)
    mixing = torch.randn(batch, 8, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, rows, columns, generator=generator, dtype=torch.float64)
    return (hidden @ mixing / 3 + 0.5 * noise).relu()


def relative_gaps(values: Tensor, k: int) -> Tensor:
    """Of each of k values to its nearest neighbour, relative to itself."""
    below = (values[..., :k] - values[..., 1 : k + 1]) / values[..., :k]
    above = torch.full_like(below, torch.inf)
    above[..., 1:] = (values[..., : k - 1] - values[..., 1:k]) / values[..., 1:k]
    return torch.minimum(below, above)


def check_against_float64(matrices: Tensor, k: int) -> None:
    """The bar: a cosine of 0.9999 where a gap exceeds 1 %, and orthonormal to 1e-5."""
    svd = truncated_svd(matrices, k, solver="subspace")
    vectors = svd.right_vectors.double()
    _, values, right_T = torch.linalg.svd(matrices.double(), full_matrices=False)
    cosines = (vectors.mT @ right_T[..., :k, :].mT).diagonal(dim1=-2, dim2=-1).abs()
    separated = relative_gaps(values, k) > 0.01
    assert cosines[separated].min() > 0.9999
    assert (vectors.mT @ vectors - torch.eye(k)).abs().max() < 1e-5
    torch.testing.assert_close(
        svd.singular_values.double(), values[..., :k], rtol=1e-3, atol=float(1e-4 * values.max())
    )


@pytest.mark.parametrize("k", [1, 2, 5, 17])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_agrees_with_float64_on_what_looks_like_feature_maps(n: int, d: int, k: int) -> None:
    check_against_float64(like_feature_maps(n, d).float(), k)


@pytest.fixture(scope="module")
def real_images(cifar100: Path) -> torch.Tensor:
    data = load_images(f"parquet:{cifar100}", classes_every=10)
    batch = next(data.test.batches(32, device="cpu", order_seed=0))
    return Augmentation("none", 32, data.mean, data.std).normalise(batch.images)


@pytest.mark.cifar100
@pytest.mark.parametrize("name", network_names())
def test_agrees_with_float64_on_maps_of_real_images(name: str, real_images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = build_network(name, 10)
    checked = 0
    with torch.no_grad():
        recording = FeatureTaps(network, network.tap_paths).run(real_images)
    for feature_map in recording.features:
        matrices = feature_map.flatten(2).mT
        if min(matrices.shape[1:]) >= 32:
            check_against_float64(matrices, 2)
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d"), [(96, 64), (64, 96)])
@pytest.mark.parametrize("spectrum", HARD_SPECTRA.values(), ids=HARD_SPECTRA.keys())
def test_hard_spectra(spectrum: list[float], n: int, d: int, dtype: torch.dtype) -> None:
    matrix = matrix_with_spectrum(spectrum, n, d).to(dtype)
    leading = (spectrum + [0.0] * 3)[:3]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    matrices = torch.stack([matrix, 2 * matrix]).requires_grad_()
    svd = truncated_svd(matrices, 3, solver="subspace")
    vectors = svd.right_vectors.detach()
    assert (vectors.mT @ vectors - torch.eye(3, dtype=dtype)).abs().max() < tolerance
    expected = torch.tensor(leading, dtype=dtype)
    torch.testing.assert_close(svd.singular_values[0], expected, rtol=1e-4, atol=2e-3)
    # Each vector truly stretches by its value: none was passed over.
    stretched = (matrices.detach() @ vectors).norm(dim=-2)
    torch.testing.assert_close(stretched[0], expected, rtol=1e-4, atol=2e-3)
    (svd.right_vectors**3).sum().backward()
    assert matrices.grad is not None
    assert torch.isfinite(matrices.grad).all()


def test_what_does_not_converge_is_counted_and_computed_again() -> None:
    slow = matrix_with_spectrum([1.0 - 0.001 * i for i in range(64)], 80, 64)
    matrices = torch.stack([slow, like_feature_maps(80, 64, batch=1)[0]]).float()
    with watch_convergence("cpu") as watch:
        svd = truncated_svd(matrices, 2, solver="subspace")
    assert (watch.decomposed, int(watch.missed)) == (2, 1)
    again = truncated_svd(matrices, 2, solver="gram")
    torch.testing.assert_close(svd.right_vectors[0], again.right_vectors[0], rtol=0, atol=1e-6)


def test_watches_nest_and_end() -> None:
    matrices = like_feature_maps(80, 64, batch=3).float()
    with watch_convergence("cpu") as outer:
        truncated_svd(matrices, 1, solver="subspace")
        with watch_convergence("cpu") as inner:
            truncated_svd(matrices, 1, solver="subspace")
    truncated_svd(matrices, 1, solver="subspace")
    assert (outer.decomposed, inner.decomposed) == (6, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_member_leaves_the_others_alone(value: float) -> None:
    matrices = like_feature_maps(256, 64, batch=5).float()
    clean = truncated_svd(matrices, 2, solver="subspace").right_vectors
    broken = matrices.clone()
    broken[2, 7, 7] = value
    vectors = truncated_svd(broken, 2, solver="subspace").right_vectors
    assert vectors[2].isnan().all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(vectors[others], clean[others], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("n", "d"), [(96, 64), (64, 24), (40, 100)])
def test_members_do_not_depend_on_their_batch(n: int, d: int, k: int) -> None:
    """To the bit, on the CPU: or a store's knowledge would not be the live teacher's."""
    slow = matrix_with_spectrum([1.0 - 0.01 * i for i in range(min(n, d))], n, d)[None]
    matrices = torch.cat([like_feature_maps(n, d), slow]).float()
    together = truncated_svd(matrices, k, solver="subspace")
    for members in (slice(0, 1), slice(9, 17), slice(3, 12), slice(16, 17)):
        alone = truncated_svd(matrices[members], k, solver="subspace")
        assert torch.equal(together.right_vectors[members], alone.right_vectors)
        assert torch.equal(together.singular_values[members], alone.singular_values)


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize(("n", "d"), [(256, 64), (64, 128), (300, 128)])
def test_gradient_agrees_with_the_full_svd_in_float64(n: int, d: int, k: int) -> None:
    matrices = like_feature_maps(n, d)
    weights = torch.rand(d, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = matrices.clone().requires_grad_()
    values, vectors = full_svd(reference, k)
    ((vectors * weights).pow(3).sum() + values.sum()).backward()
    actual = matrices.float().requires_grad_()
    svd = truncated_svd(actual, k, solver="subspace")
    ((svd.right_vectors * weights.float()).pow(3).sum() + svd.singular_values.sum()).backward()
    errors = [relative_error(a, b) for a, b in zip(actual.grad, reference.grad, strict=True)]
    assert sorted(errors)[len(errors) // 2] < 1e-3
    assert max(errors) < 0.05  # where a gap is small the gradient itself is ill-conditioned


def test_the_usual_path_looks_at_the_host() -> None:
    with pytest.raises(AssertionError, match="recorded"), Recordable():
        truncated_svd(like_feature_maps(96, 64).float(), 2, solver="subspace")


@pytest.fixture
def captured() -> Iterator[None]:
    """The solvers believe that a step is being captured."""
    with recorded():
        yield


@pytest.mark.usefixtures("captured")
class TestCaptured:
    """One fixed sequence of kernels: no look at the host, fixed rounds, a count to read later."""

    @pytest.mark.parametrize("k", [1, 2, 4])
    @pytest.mark.parametrize(("n", "d"), [(256, 64), (64, 128), (300, 128), (16, 256), (64, 24)])
    def test_agrees_with_the_full_svd(self, n: int, d: int, k: int) -> None:
        matrices = like_feature_maps(n, d).float()
        expected = truncated_svd(matrices, k, solver="svd")
        with watch_convergence("cpu") as watch:
            svd = truncated_svd(matrices, k)
        assert int(watch.missed) == 0
        torch.testing.assert_close(svd.right_vectors, expected.right_vectors, rtol=0, atol=2e-3)
        torch.testing.assert_close(svd.singular_values, expected.singular_values, rtol=1e-4, atol=0)

    @pytest.mark.parametrize(("n", "d"), [(96, 64), (64, 96), (4, 64), (64, 16)])
    def test_forward_and_backward_never_read_the_host(self, n: int, d: int) -> None:
        matrices = like_feature_maps(n, d).float().requires_grad_()
        with watch_convergence("cpu"), Recordable():
            svd = truncated_svd(matrices, 2)
            (svd.right_vectors**3).sum().backward()

    def test_misses_are_counted_only(self) -> None:
        slow = matrix_with_spectrum([1.0 - 0.001 * i for i in range(64)], 80, 64).float()
        with watch_convergence("cpu") as watch:
            svd = truncated_svd(slow[None], 2, solver="subspace")
        assert int(watch.missed) == 1
        assert torch.isfinite(svd.right_vectors).all()

    @pytest.mark.parametrize("spectrum", HARD_SPECTRA.values(), ids=HARD_SPECTRA.keys())
    def test_hard_spectra_stay_finite(self, spectrum: list[float]) -> None:
        matrices = matrix_with_spectrum(spectrum, 96, 64).float()[None].requires_grad_()
        svd = truncated_svd(matrices, 3, solver="subspace")
        (svd.right_vectors**3).sum().backward()
        assert torch.isfinite(svd.right_vectors).all()
        assert matrices.grad is not None
        assert torch.isfinite(matrices.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-34, 1e-30, 1.0, 1e30, 1e36])
@pytest.mark.parametrize("rank", [1, 3])
def test_sixteen_vectors_of_low_rank(rank: int, scale: float, dtype: torch.dtype) -> None:
    """Of which its Gram matrix, unscaled, would be zero or infinite."""
    matrix = matrix_with_spectrum([1.0 / (i + 1) for i in range(rank)], 200, 96).to(dtype)
    svd = truncated_svd(torch.stack([scale * matrix, matrix]), 16, solver="subspace")
    vectors = svd.right_vectors.double()
    assert (vectors.mT @ vectors - torch.eye(16)).abs().max() < ORTHONORMAL[dtype]
    assert (vectors[0] - vectors[1])[:, :rank].abs().max() < 1e-5


@pytest.mark.parametrize("wrong", ["not orthogonal", "not of length 1", "not finite"])
@pytest.mark.parametrize(("n", "d"), [(96, 64), (64, 96)])
def test_vectors_that_are_not_orthonormal_are_computed_again(
    n: int, d: int, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the iteration believes of its residuals, and that member alone."""
    matrices = like_feature_maps(n, d, batch=3).float()
    expected = truncated_svd(matrices, 3, solver="gram").right_vectors
    usual = truncated_svd(matrices, 3, solver="subspace").right_vectors

    def spoiled(gram: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        values, rows, converged = leading_eigenpairs(gram, k)
        first = rows[1, 0].clone()
        if wrong == "not orthogonal":
            rows[1, 1] = (rows[1, 1] + 0.3 * first) / 1.09**0.5
        elif wrong == "not of length 1":
            rows[1] *= 1.0 + 1e-3
        else:
            rows[1, 2, 0] = torch.nan
        return values, rows, converged

    monkeypatch.setattr(solvers, "leading_eigenpairs", spoiled)
    with watch_convergence("cpu") as watch:
        vectors = truncated_svd(matrices, 3, solver="subspace").right_vectors
    # In wide matrices a length is made 1 again anyway, and the vectors with it.
    assert int(watch.missed) == (0 if wrong == "not of length 1" and n < d else 1)
    if int(watch.missed):
        torch.testing.assert_close(vectors[1], expected[1], rtol=0, atol=1e-5)
    assert torch.equal(vectors[[0, 2]], usual[[0, 2]])
