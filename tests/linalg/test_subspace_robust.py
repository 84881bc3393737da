"""Decompositions go on where LAPACK's iteration gives up, and no other member notices."""

from pathlib import Path

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.linalg import subspace as robust, truncated_svd
from svdistill.linalg.subspace import eigh, svd

SYMMETRIC = torch.stack([m @ m.T for m in torch.randn(4, 5, 5, generator=torch.manual_seed(0))])


@pytest.fixture
def failing(monkeypatch):
    """LAPACK gives up on whatever holds the number 7, in so many dtypes: it says so, or not."""

    def install(*dtypes, silently=False):
        for name in ("eigh", "svd"):
            original = getattr(torch.linalg, name)

            def decompose(matrices, *args, original=original, **options):
                parts = original(matrices, *args, **options)
                if matrices.dtype in dtypes and bool((matrices == 7.0).any()):
                    if not silently:
                        raise torch.linalg.LinAlgError("failed to converge")
                    for part in parts:
                        part[(matrices == 7.0).flatten(1).any(1)] = torch.nan
                return parts

            monkeypatch.setattr(torch.linalg, name, decompose)

    return install


def with_seven(matrices):
    matrices = matrices.clone()
    matrices[2] = torch.diag(torch.tensor([7.0, 5.0, 3.0, 2.0, 1.0]))
    return matrices


def test_where_nothing_fails_it_is_torchs():
    values, vectors = eigh(SYMMETRIC)
    expected = torch.linalg.eigh(SYMMETRIC)
    assert torch.equal(values, expected.eigenvalues)
    assert torch.equal(vectors, expected.eigenvectors)
    for part, other in zip(svd(SYMMETRIC), torch.linalg.svd(SYMMETRIC), strict=True):
        assert torch.equal(part, other)


@pytest.mark.parametrize("decompose", [eigh, svd])
@pytest.mark.parametrize("silently", [False, True])
def test_one_that_fails_is_computed_in_double_and_leaves_the_others(decompose, silently, failing):
    expected = decompose(SYMMETRIC)
    failing(torch.float32, silently=silently)
    parts = decompose(with_seven(SYMMETRIC))
    for part, other in zip(parts, expected, strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part[[0, 1, 3]], other[[0, 1, 3]], rtol=0, atol=1e-5)
    values = parts[0] if decompose is eigh else parts[1]
    assert values[2].sort().values.tolist() == [1.0, 2.0, 3.0, 5.0, 7.0]


@pytest.mark.parametrize("silently", [False, True])
def test_what_fails_in_double_too_is_refused(silently, failing):
    failing(torch.float32, torch.float64, silently=silently)
    with pytest.raises(ArgumentError, match=r"^matrices: .*does not converge; .*scale them"):
        eigh(with_seven(SYMMETRIC))


@pytest.mark.parametrize("solver", ["gram", "svd"])
def test_a_real_matrix_on_which_lapack_may_give_up(solver):
    """Channels of scales from 1e-30 to 1e30: most of the Gram matrix is subnormal or zero."""
    draw = torch.Generator().manual_seed(3)
    exponents = torch.empty(33, dtype=torch.float64).uniform_(-30, 30, generator=draw)
    noise = torch.randn(3, 494, 33, generator=draw, dtype=torch.float64)
    matrices = (noise * 10.0**exponents).float().requires_grad_()
    values, vectors = truncated_svd(matrices, 4, solver=solver)
    assert values.isfinite().all()
    assert (vectors.mT @ vectors - torch.eye(4)).abs().max() < 1e-5
    (values[:, 0].sum() / 1e30 + (vectors**3).sum()).backward()
    assert matrices.grad.isfinite().all()


def test_no_solver_calls_lapack_past_it():
    """Errors of torch.linalg reach nobody: only this module may call its iterations."""
    package = robust.__file__.rpartition("/")[0]
    for path in Path(package).glob("*.py"):
        if path.name != "subspace.py":
            text = path.read_text()
            assert "torch.linalg.eigh(" not in text, path
            assert "torch.linalg.svd(" not in text, path
