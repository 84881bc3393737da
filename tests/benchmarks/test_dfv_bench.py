from functools import partial
from pathlib import Path

import pytest
import torch

from svdistill_benchmarks.dfv import WAYS, bench_dfv, unit_vectors
from svdistill_benchmarks.machine import peak_memory

MEGABYTE = 2**20


@pytest.mark.slow
def test_both_ways_agree_with_float64() -> None:
    result = bench_dfv(batch_size=2, rounds=1, sizes=((8, 16),), vectors=(2,))
    assert [row.way for row in result.rows] == list(WAYS)
    for row in result.rows:
        assert (row.front, row.back, row.vectors) == (8, 16, 2)
        assert 0 <= row.value_error < 1e-4
        assert 0 <= row.gradient_error < 1e-4
        assert row.peak_bytes >= 0


def test_vectors_are_weighted_as_in_the_loss() -> None:
    for side in unit_vectors(3, 8, 16, 4, torch.device("cpu")):
        torch.testing.assert_close(side.mT @ side, torch.eye(4).expand(3, 4, 4) / 4)


def fill(megabytes: int, _inputs: object) -> None:
    torch.ones(megabytes * MEGABYTE // 4)


def inputs() -> list[torch.Tensor]:
    return [torch.ones(20 * MEGABYTE)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_counts_what_the_computation_adds() -> None:
    peak = peak_memory(partial(fill, 200), inputs) / MEGABYTE
    assert 195 < peak < 230
