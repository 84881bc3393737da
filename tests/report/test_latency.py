import dataclasses
from pathlib import Path

import pytest
import torch
from made_runs import made_run

from svdistill.errors import RunError
from svdistill.networks import network_names, profile_network
from svdistill.networks.registry import build_network
from svdistill.report.latency import measure_latencies, rebuild
from svdistill.report.runs import Run


def run_of(name: str, num_classes: int, side: int, width: float = 0.25) -> Run:
    with torch.device("meta"):
        size = profile_network(build_network(name, num_classes, width), (3, side, side))
    return made_run(name, name, parameters=size.parameters, flops=size.flops, width=width)


@pytest.mark.parametrize("name", network_names())
def test_classes_and_images_are_found_from_what_a_run_counted(name: str) -> None:
    network, image = rebuild(run_of(name, num_classes=37, side=32))
    assert image.shape == (1, 3, 32, 32)
    assert network(image).shape == (1, 37)
    assert not network.training


def test_rebuilding_draws_from_nobodys_generator() -> None:
    before = torch.get_rng_state()
    rebuild(run_of("vgg_student", num_classes=10, side=16))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_network_is_timed_once() -> None:
    slow, fast = run_of("vgg_teacher", 10, 64, 0.5), run_of("vgg_stride_student", 10, 16)
    again = dataclasses.replace(fast, config={**fast.config, "seed": 1})
    first, second = measure_latencies([slow, fast, again])
    assert first.is_of(slow)
    assert second.is_of(fast)
    assert second.is_of(again)
    assert not first.is_of(fast)
    assert 0 < second.milliseconds < first.milliseconds
    assert first.lower <= first.milliseconds <= first.upper
    assert first.threads == torch.get_num_threads()


def test_what_a_run_says_of_itself_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    runs = [made_run(name, name) for name in ("stranger:net", "timm:resnet18", "object")]
    assert measure_latencies(runs) == []


def test_a_network_that_has_changed_since_is_named() -> None:
    changed = made_run("runs/old", "vgg_student", parameters=1_234_567, flops=7_654_321)
    with pytest.raises(RunError, match="runs/old"):
        measure_latencies([changed])
