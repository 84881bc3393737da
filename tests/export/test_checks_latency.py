import time
from collections.abc import Callable

import pytest
import torch

from svdistill.export import checks as latency
from svdistill.export.checks import measure_latency


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass, on a clock that nothing else moves on."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_both_are_timed_on_batches_of_both_sizes(wait: Callable[[float], None]) -> None:
    seen: list[int] = []

    def original(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images

    def exported(images: torch.Tensor) -> torch.Tensor:
        wait(1e-3)
        return images

    networks = {"PyTorch": original, "exported": exported}
    found = measure_latency(networks, torch.rand(3, 3, 8, 8))
    assert list(found) == [1, 32]
    one = found[1]
    assert set(seen) == {1, 32}
    assert list(one) == ["PyTorch", "exported"]
    assert one["PyTorch"].median == 0
    assert one["exported"].median == pytest.approx(1e-3)
    assert {len(measured.seconds) for measured in one.values()} == {latency.ROUNDS}


def test_what_would_take_long_is_left_out(
    wait: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(images: torch.Tensor) -> torch.Tensor:
        wait(1e-3 * len(images))
        return images

    monkeypatch.setattr(latency, "SECONDS", 0.05)
    assert list(measure_latency({"a": network, "b": network}, torch.rand(3, 3, 8, 8))) == [1]
