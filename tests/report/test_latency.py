import dataclasses
from pathlib import Path

import pytest
import torch

from made_runs import made_run
from svdistill.networks import build_network, profile_network
from svdistill.report.networks import Missing, measure_latencies, rebuild
from svdistill.report.runs import Run


def run_of(name: str, num_classes: int, side: int, width: float = 0.25) -> Run:
    with torch.device("meta"):
        size = profile_network(build_network(name, num_classes, width), (3, side, side))
    counted = {"parameters": size.parameters, "flops": size.flops}
    return made_run(name, name, **counted, width=width, num_classes=num_classes, side=side)


def test_a_network_is_built_as_it_was_for_one_blank_image() -> None:
    network, image = rebuild(run_of("vgg_student", num_classes=37, side=32))
    assert image.shape == (1, 3, 32, 32)
    assert network(image).shape == (1, 37)
    assert not network.training


def test_one_of_another_library_needs_no_weights(of_timm: Run, tmp_path: Path) -> None:
    network, image = rebuild(dataclasses.replace(of_timm, path=tmp_path))
    assert image.shape == (1, 3, 32, 32)
    assert network(image).shape == (1, 10)


def test_rebuilding_draws_from_nobodys_generator() -> None:
    before = torch.get_rng_state()
    rebuild(run_of("vgg_student", num_classes=10, side=16))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_network_is_timed_once(of_timm: Run) -> None:
    slow, fast = run_of("vgg_teacher", 10, 64, 0.5), run_of("vgg_stride_student", 10, 16)
    again = dataclasses.replace(fast, config={**fast.config, "seed": 1})
    measured = measure_latencies([slow, fast, again, of_timm])
    first, second, third = measured.networks
    assert measured.left_out == ()
    assert first.is_of(slow)
    assert second.is_of(fast)
    assert second.is_of(again)
    assert third.is_of(of_timm)
    assert not first.is_of(fast)
    assert 0 < second.milliseconds < first.milliseconds
    assert first.lower <= first.milliseconds <= first.upper
    assert first.threads == torch.get_num_threads()


def test_networks_that_cannot_be_built_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    reasons = {
        "stranger:net": "code of your own",
        "object": "given in Python",
        "hf:someone/model": "lacks its weights",
    }
    runs = [made_run(name, name, side=32) for name in reasons]
    measured = measure_latencies([*runs, run_of("vgg_student", 10, 16)])
    assert len(measured.networks) == 1
    for sentence, reason in zip(measured.left_out, reasons.values(), strict=True):
        assert "was not timed: " in sentence
        assert reason in sentence


def test_one_that_its_library_no_longer_has_is_left_out_too(of_timm: Run) -> None:
    renamed = dataclasses.replace(of_timm.summary, network="timm:no_such_network")
    (sentence,) = measure_latencies([dataclasses.replace(of_timm, summary=renamed)]).left_out
    assert "timm: and a name that timm has" in sentence


def test_a_network_that_has_changed_since_is_named() -> None:
    changed = made_run("runs/old", "vgg_student", parameters=1_234_567, flops=7_654_321)
    with pytest.raises(Missing, match="runs/old counted 1,234,567 parameters"):
        rebuild(changed)
