import pytest
import torch

from recorded_work import Recordable
from svdistill.linalg.subspace import leading_of_small


def positive(q: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(5, q, q, generator=generator, dtype=torch.float64)
    return (factor @ factor.mT).to(dtype)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("q", [4, 12, 27])
def test_agrees_with_eigh(q: int, k: int) -> None:
    matrices = positive(q, seed=q)
    values, rows = leading_of_small(matrices, k)
    expected, vectors = torch.linalg.eigh(matrices)
    torch.testing.assert_close(values, expected[:, -k:].flip(-1), rtol=1e-6, atol=0)
    cosines = (rows * vectors[..., -k:].flip(-1).mT).sum(-1).abs()
    assert cosines.min() > 1 - 1e-8


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_close_values_are_told_apart(dtype, gap):
    basis, _ = torch.linalg.qr(positive(6, seed=3))
    lam = torch.tensor([1.0, 1.0 - gap, 0.5, 0.1, 0.0, 0.0], dtype=torch.float64)
    _, rows = leading_of_small((basis @ torch.diag(lam) @ basis.mT).to(dtype), 2)
    cosines = (rows.double() * basis.mT[:, :2]).sum(-1).abs()
    assert cosines.min() > 1 - 1e-5


def test_all_pairs_of_a_float32_matrix() -> None:
    matrices = positive(6, seed=0, dtype=torch.float32)
    values, rows = leading_of_small(matrices, 6)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(6).expand(5, 6, 6), rtol=0, atol=1e-5)
    rebuilt = rows.mT @ (values[..., None] * rows)
    torch.testing.assert_close(rebuilt, matrices, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "diagonal", [[0.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 1, 1, 1], [1.0, 1, 0, 0], [1e-30, 0, 0, 0]]
)
def test_rows_are_orthonormal_where_values_are_zero_or_equal(diagonal: list[float]) -> None:
    matrices = torch.diag(torch.tensor(diagonal))[None]
    values, rows = leading_of_small(matrices, 3)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(3)[None], rtol=0, atol=1e-6)
    torch.testing.assert_close(values[0], torch.tensor(diagonal[:3]), rtol=1e-5, atol=0)


def test_never_looks_at_the_host() -> None:
    with Recordable():
        leading_of_small(positive(12, seed=1), 2)
