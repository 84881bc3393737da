import time

import pytest
import torch

from svdistill.export import checks as latency
from svdistill.export.checks import measure_latency


def test_both_are_timed_on_batches_of_both_sizes() -> None:
    seen: list[int] = []

    def original(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images

    def exported(images: torch.Tensor) -> torch.Tensor:
        time.sleep(1e-3)
        return images

    networks = {"PyTorch": original, "exported": exported}
    found = measure_latency(networks, torch.rand(3, 3, 8, 8))
    assert list(found) == [1, 32]
    one = found[1]
    assert set(seen) == {1, 32}
    assert list(one) == ["PyTorch", "exported"]
    assert one["PyTorch"].median < 1e-3 <= one["exported"].median
    assert {len(measured.seconds) for measured in one.values()} == {latency.ROUNDS}


def test_what_would_take_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(images: torch.Tensor) -> torch.Tensor:
        time.sleep(1e-3 * len(images))
        return images

    monkeypatch.setattr(latency, "SECONDS", 0.05)
    assert list(measure_latency({"a": network, "b": network}, torch.rand(3, 3, 8, 8))) == [1]
