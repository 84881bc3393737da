"""Runs are kept without this machine's paths, and can be used as they are kept."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from svdistill.config import DistillConfig, TrainConfig
from svdistill.report import find_runs
from svdistill.runs import load_student
from svdistill.runs.directory import stored_values
from svdistill.training import distill, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    options = {
        "data": "digits",
        "width": 0.1,
        "train_size": 100,
        "epochs": 1,
        "batch_size": 64,
        "network": "mobilenet_student",
        "augmentation": "none",
        "device": "cpu",
    }
    train(TrainConfig(output=str(root / "teacher"), **options))
    taught = DistillConfig(
        output=str(root / "a" / "svd-0"), teacher=str(root / "teacher"), **options
    )
    distill(taught)
    return root


def test_kept_runs_hold_no_path_of_the_machine_and_can_be_read(
    load_script: Callable[[str], ModuleType],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "results"
    words = [str(runs), str(target), "--data", "folder:data/digits", "--weights", "teacher"]
    monkeypatch.setattr("sys.argv", ["keep_results.py", *words])
    load_script("keep_results").main()
    texts = [path for path in target.rglob("*") if path.suffix in (".yaml", ".json", ".jsonl")]
    assert len(texts) == 11
    assert not any(str(runs) in path.read_text() for path in texts)
    kept = {run.path.name: run for run in find_runs([target])}
    assert kept["svd-0"].config["teacher"] == str(target / "teacher")
    assert kept["svd-0"].config["data"] == "folder:data/digits"
    assert kept["svd-0"].summary.directory == str(target / "a" / "svd-0")
    assert kept["svd-0"].predictions is not None
    assert not (kept["svd-0"].path / "student.safetensors").exists()


def test_runs_of_several_data_sets_keep_the_names_of_their_own(
    load_script: Callable[[str], ModuleType], runs: Path, tmp_path: Path
) -> None:
    kept = load_script("keep_results").keep(runs / "teacher", runs, tmp_path, None)
    assert stored_values(kept / "config.yaml")["data"] == "digits"


def test_weights_are_kept_in_half_and_load_as_floats(
    load_script: Callable[[str], ModuleType], runs: Path, tmp_path: Path
) -> None:
    script = load_script("keep_results")
    kept = script.keep(runs / "teacher", runs, tmp_path, "digits")
    script.keep_weights(runs / "teacher", kept)
    before = load_file(runs / "teacher" / "student.safetensors")
    after = load_file(kept / "student.safetensors")
    for name, tensor in before.items():
        if tensor.is_floating_point():
            assert after[name].dtype == torch.float16
            assert torch.equal(after[name], tensor.half())
    assert all(parameter.dtype == torch.float32 for parameter in load_student(kept).parameters())


def test_what_was_copied_from_the_target_keeps_its_paths_and_no_other_place_is_taken(
    load_script: Callable[[str], ModuleType], runs: Path, tmp_path: Path
) -> None:
    script = load_script("keep_results")
    run, source, target = runs / "a" / "svd-0", tmp_path / "runs", tmp_path / "results"
    shutil.copytree(script.keep(run, runs, target, "digits"), source / "a" / "svd-0")
    kept = script.keep(source / "a" / "svd-0", source, target, "digits")
    assert stored_values(kept / "config.yaml")["teacher"] == str(target / "teacher")
    shutil.copytree(run, source / "elsewhere")
    with pytest.raises(ValueError, match="teacher"):
        script.keep(source / "elsewhere", source, target, "digits")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "teacher", "a/svd"], "a/svd: no finished runs"),
        (["--data", "parquet:data/cifar100"], "the runs are on others, scikit-learn's digits"),
    ],
)
def test_nothing_is_kept_under_a_wrong_name(
    words: list[str],
    said: str,
    load_script: Callable[[str], ModuleType],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = tmp_path / "runs", tmp_path / "results"
    shutil.copytree(runs, source)
    if "--data" in words:
        config = source / "a" / "svd-0" / "config.yaml"
        config.write_text(config.read_text().replace("data: digits", "data: parquet:data/others"))
    monkeypatch.setattr("sys.argv", ["keep_results.py", str(source), str(target), *words])
    with pytest.raises(SystemExit):
        load_script("keep_results").main()
    assert said in capsys.readouterr().err
    assert not target.exists()
