from pathlib import Path

import pytest
import torch

from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import BenchConfig
from svdistill_benchmarks import SVDResult, run_bench
from svdistill_benchmarks.run import read_result
from svdistill_benchmarks.tables import footnotes, result_tables


def test_a_run_leaves_the_file_that_it_returns(tmp_path: Path) -> None:
    config = BenchConfig("vgg", 0.125, 2, 1, device="cpu", output=str(tmp_path / "deep" / "a.json"))
    result, path = run_bench("svd", config)
    assert read_result(path, SVDResult) == result
    assert isinstance(result, SVDResult)
    (table,) = result_tables(result)
    assert table.to_markdown().count("\n") == 1 + len(result.rows)
    assert torch.__version__ in footnotes(result)[-1]


@pytest.mark.parametrize(
    ("what", "options", "culprit"),
    [
        ("steps", {}, "what"),
        ("dfv", {"network": "vgg"}, "network"),
        ("step", {"teacher": "runs/a"}, "teacher"),
        ("growth", {"batch_size": 8}, "batch_size"),
        ("step", {"network": "vg"}, "network"),
        ("step", {"device": "tpu"}, "device"),
        ("dfv", {"threads": 0}, "threads"),
        ("dfv", {"batch_size": 0}, "batch_size"),
    ],
)
def test_a_wrong_option_is_named(what: str, options: dict, culprit: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{culprit}: "):
        run_bench(what, BenchConfig(**options))


def test_another_benchmarks_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"rows": []}')
    with pytest.raises(RunError, match="measure it again"):
        read_result(tmp_path / "a.json", SVDResult)


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdistill_benchmarks.run._measure", pytest.fail)
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "a.json"):
        with pytest.raises(RunError, match="another --output"):
            run_bench("dfv", BenchConfig(output=str(output)))
