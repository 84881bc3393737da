"""The pure parts of benchmarks/reliability/golden.py, which makes and compares whole runs."""

import json
from pathlib import Path

import golden
import pytest
import torch
from safetensors.torch import save_file

RECORD = {"stage": "both", "epoch": 0, "task_loss": 2.5, "seconds": 0.1, "images_per_second": 9.0}


def a_run(folder, weights, **record):
    folder.mkdir()
    save_file(weights, folder / "student.safetensors")
    (folder / "metrics.jsonl").write_text(json.dumps({**RECORD, **record}) + "\n")
    (folder / "summary.json").write_text(json.dumps({"last_accuracy": 50.0, "seconds": 1.0}))
    return golden.digests(folder)


@pytest.mark.parametrize(
    ("weight", "record", "differing"),
    [
        (1.0, {}, []),
        (1.0, {"seconds": 0.2, "images_per_second": 3.0}, []),
        (1.0, {"task_loss": 2.5 + 2**-51}, ["a: metrics differ"]),
        (1.0 + 2**-23, {}, ["a: weights differ"]),
        (1.0 + 2**-23, {"epoch": 1}, ["a: weights and metrics differ"]),
    ],
)
def test_the_last_bit_of_a_number_counts_and_time_does_not(weight, record, differing, tmp_path):
    before = a_run(tmp_path / "before", {"a": torch.ones(2), "b": torch.tensor(1.0)})
    after = a_run(tmp_path / "after", {"b": torch.tensor(weight), "a": torch.ones(2)}, **record)
    assert golden.differences({"a": before}, {"a": after}) == differing


def test_bytes_types_and_names_of_tensors_count(tmp_path):
    zero = torch.zeros(2)
    stored = ({"a": zero}, {"a": -zero}, {"b": zero}, {"a": zero.bfloat16()}, {"a": zero[None]})
    found = [a_run(tmp_path / str(i), one)["weights"] for i, one in enumerate(stored)]
    assert len(set(found)) == len(stored)


def test_a_run_whose_numbers_are_not_finite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a number is nan"):
        a_run(tmp_path / "run", {"a": torch.ones(1)}, task_loss=float("nan"))


def test_runs_need_runs_before_them():
    runs = golden.every_run()
    seen = set()
    for name, run in runs.items():
        assert set(run.needs.values()) <= seen, name
        seen.add(name)


def test_runs_are_selected_by_their_names():
    runs = golden.every_run()
    assert golden.selected(runs, None) == list(runs)
    assert len(golden.selected(runs, "svd gradient=exact")) == 3
    assert golden.selected(runs, "teacher*") == ["teacher", "teacher resnext"]
    assert golden.selected(runs, "nothing of that name") == []


def test_a_command_line_names_the_folders_that_it_reads(tmp_path):
    run = golden.Run("distill", {"epochs": 2}, {"teacher": "a teacher"})
    line = golden.words(run, Path("out"), {"a teacher": Path("in")})
    assert line == ["distill", "--epochs=2", "--teacher=in", "--output=out"]


def test_a_file_is_read_as_it_was_written(tmp_path):
    kept = {"machine": {"threads": 1}, "runs": {"a": {"weights": "1"}, "b": {"store": "2"}}}
    golden.write(tmp_path / "golden.json", kept)
    assert json.loads((tmp_path / "golden.json").read_text()) == kept


def test_the_kept_file_has_every_run():
    kept = Path(golden.__file__).parent / "golden" / "first-edition.json"
    assert json.loads(kept.read_text())["runs"].keys() == golden.every_run().keys()
