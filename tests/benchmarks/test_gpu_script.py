"""The script for a GPU machine runs on a CPU too, on tiny networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svdistill.config import DistillConfig
from svdistill.losses import DEFAULT_LOSS, SoftTargetLoss, loss_names
from svdistill_benchmarks import gpu
from svdistill_benchmarks.gpu_checks import check_loss
from svdistill_benchmarks.gpu_steps import count_transfer
from svdistill_benchmarks.gpu_work import Setting, available_pairs

SMALL = Setting(torch.device("cpu"), small=True)

# One of each kind; the whole list takes minutes.
RUN = (
    *(f"check: {loss} against float64" for loss in (*loss_names(), DEFAULT_LOSS)),
    "check: recorded against eager: vgg, default",
    "check: no synchronisation: vgg, SVD",
    "check: dropout across replays",
    "check: resume of recorded training",
    "step: mobilenet, plain student, float32, eager",
    "step: mobilenet, default, float32, eager",
    "step: vgg, default, bf16, recorded",
    "step: vgg, default, float32, compiled",
    "epoch: vgg, default, float32",
)


def run(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = gpu.main(["--device", "cpu", "--small", "--output", str(path), *options])
    return status, json.loads(path.read_text())


@pytest.mark.slow
def test_cases_of_each_kind_pass_or_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [(name, case) for name, case in gpu.cases(SMALL) if name in RUN]
    assert {name for name, _ in named} == set(RUN)
    monkeypatch.setattr(gpu, "cases", lambda setting: iter(named))
    status, results = run(tmp_path / "new" / "gpu.json")
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert set(results) == {"machine", *RUN}
    for name, found in results.items():
        if name.startswith("check: "):
            assert found["passed"], name
        elif name != "machine":
            assert found["images_per_second"] > 0
    assert " plain students" in printed


def test_names_are_unique_and_every_pair_is_timed() -> None:
    names = [name for name, _ in gpu.cases(SMALL)]
    assert len(set(names)) == len(names)
    for pair in available_pairs():
        assert f"step: {pair}, default, float32, recorded" in names


def test_kernels_and_bytes_are_counted_without_a_gpu() -> None:
    logits = 128 * 100 * 4
    soft = count_transfer("vgg", DistillConfig(output="", loss="soft_target"))
    assert soft["floor"] == 3 * logits  # both logits, and the gradient of the student's
    assert soft["bytes"]["extract"] == 2 * logits  # a copy
    svd = count_transfer("vgg", DistillConfig(output="", loss="svd"))
    taps = 4 * 128 * (256 * 64 + 64 * 128 + 16 * 256 + 4 * 512)
    assert svd["floor"] == 3 * taps
    # One factorisation and one inverse for the gradient of each tap.
    assert svd["factorisations"] == {"extract": 0, "forward": 0, "backward": 8}
    assert 1000 < sum(svd["kernels"].values()) < 1700


def test_a_wrong_loss_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SoftTargetLoss.forward

    def wrong(self: SoftTargetLoss, features: Any, logits: Any, *rest: Any) -> Any:
        loss = forward(self, features, logits, *rest)
        return loss * 1.01 if logits.dtype == torch.float32 else loss

    monkeypatch.setattr(SoftTargetLoss, "forward", wrong)
    assert not check_loss("soft_target", SMALL)["passed"]


def test_a_second_call_runs_what_is_left_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def case(name: str) -> dict[str, Any]:
        calls.append(name)
        if name == "b" and calls.count("b") == 1:
            raise RuntimeError("not this time")
        return {"seconds": 1.0}

    named = [(name, lambda name=name: case(name)) for name in "abc"]
    monkeypatch.setattr(gpu, "cases", lambda setting: iter(named))
    path = tmp_path / "gpu.json"
    status, results = run(path)
    assert (status, results["b"]) == (1, {"error": "RuntimeError: not this time"})
    status, results = run(path)
    run(path)
    assert calls == ["a", "b", "c", "b"]
    assert (status, results["b"]) == (0, {"seconds": 1.0})


def test_no_case_begins_after_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = gpu.main(
        ["--device", "cpu", "--small", "--output", str(tmp_path / "a.json"), "--max_seconds", "-1"]
    )
    assert status == 0
    assert "out of time" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2
    assert "no GPU" in capsys.readouterr().err
