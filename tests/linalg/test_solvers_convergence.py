"""The watch: whose values were so close that their gradient was damped, counted on the device."""

import pytest
import torch

from recorded_work import Recordable, recorded
from references import matrix_with_spectrum
from svdistill.linalg import truncated_svd, watch_convergence
from svdistill.losses import SVDLoss

SPECTRA = {
    # name: values, whether two kept ones are close in float32, and in float64
    "equal": ([1.0, 1.0, 0.5], True, True),
    "equal but for rounding": ([1.0, 1.0 - 1e-6, 0.5], True, False),
    "one per cent apart": ([1.0, 0.99, 0.5], False, False),
    "far apart": ([1.0, 0.5, 0.1], False, False),
    "rank one": ([1.0], True, True),
    "zero": ([0.0], True, True),
    "equal behind the kept": ([1.0, 0.5, 0.1, 0.1], False, False),
}


def watched(matrices, k, **options):
    with watch_convergence("cpu") as watch:
        (truncated_svd(matrices.requires_grad_(), k, **options).right_vectors ** 3).sum().backward()
    return watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["exact", "poster", "authors"])
@pytest.mark.parametrize("solver", ["auto", "subspace", "gram", "svd"])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_counts_close_values(spectrum, solver, gradient, dtype):
    values, in_float32, in_float64 = spectrum
    close = in_float32 if dtype == torch.float32 else in_float64
    usual = matrix_with_spectrum([1.0, 0.7, 0.2], 40, 30)
    matrices = torch.stack([usual, matrix_with_spectrum(values, 40, 30), usual]).to(dtype)
    watch = watched(matrices, 2, solver=solver, gradient=gradient)
    assert (watch.differentiated, int(watch.close)) == (3, int(close))
    assert watch.close_share() == int(close) / 3


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_the_size_of_the_matrices_does_not_matter(size):
    matrices = torch.stack([matrix_with_spectrum(s, 9, 6) for s in ([3.0, 3.0], [3.0, 2.0])])
    assert int(watched(size * matrices.float(), 2).close) == 1


def test_only_where_a_gradient_goes_back():
    """A teacher's knowledge, and a student that is evaluated, are decomposed only."""
    matrices = torch.stack([matrix_with_spectrum([1.0, 1.0], 200, 100)]).float()
    with watch_convergence("cpu") as watch:
        truncated_svd(matrices, 2, solver="subspace")
        with torch.no_grad():
            truncated_svd(matrices.requires_grad_(), 2, solver="subspace")
    assert (watch.decomposed, watch.differentiated, int(watch.close)) == (2, 0, 0)
    assert watch.missed_share() == 0
    assert watch.close_share() is None


def test_the_loss_looks_one_value_farther_than_it_keeps():
    maps = torch.stack([matrix_with_spectrum(s, 9, 6) for s in ([1.0, 1.0, 0.3], [1.0, 0.5, 0.3])])
    maps = maps.mT.reshape(2, 6, 3, 3).float().requires_grad_()
    loss = SVDLoss(num_vectors=1)
    knowledge = loss.extract([torch.rand(2, 6, 3, 3)] * 2, None)
    with watch_convergence("cpu") as watch:
        loss([maps, maps], None, knowledge).backward()
    assert (watch.differentiated, int(watch.close)) == (4, 2)


def test_in_a_recorded_step_too():
    matrices = torch.stack([matrix_with_spectrum(s, 96, 64) for s in ([1.0, 1.0], [1.0, 0.5])])
    matrices = matrices.float().requires_grad_()
    with watch_convergence("cpu") as watch, recorded(), Recordable():
        (truncated_svd(matrices, 2).right_vectors ** 3).sum().backward()
    assert (watch.differentiated, int(watch.close)) == (2, 1)


def test_begins_again():
    watch = watched(torch.stack([matrix_with_spectrum([1.0, 1.0], 200, 100)]).float(), 2)
    place = watch.close.data_ptr()
    assert (watch.decomposed, watch.differentiated) == (1, 1)
    watch.reset()
    assert (watch.decomposed, watch.differentiated, int(watch.missed), int(watch.close)) == (0,) * 4
    assert watch.close.data_ptr() == place  # a recorded step counts there
    assert watch.missed_share() is None
