from pathlib import Path

import pytest

from svdistill.common.errors import ArgumentError
from svdistill_benchmarks.peers import torchdistill_peers
from svdistill_benchmarks.run import read_result, write_result
from svdistill_benchmarks.step import StepResult, bench_step
from svdistill_benchmarks.step_parts import KINDS, REST

OURS = [
    "plain student",
    "soft target, by hand",
    "soft target",
    "FSP",
    "SVD, straightforward",
    "SVD",
    "SVD, amortised",
    "SVD, amortised, from store",
    "default",
    "default, from store",
]


@pytest.fixture(scope="module")
def result() -> StepResult:
    return bench_step(("vgg",), batch_size=2, width=0.125, rounds=2)


def test_every_row_is_timed_in_every_round(result: StepResult) -> None:
    (table,) = result.tables
    names = [row.name for row in table.rows]
    assert [name for name in names if not name.startswith("torchdistill")] == OURS
    assert len(names) == len(set(names))
    assert all(len(row.seconds.seconds) == 2 for row in table.rows)
    assert all(row.seconds.median > 0 for row in table.rows)


def test_ratios_are_to_the_floor(result: StepResult) -> None:
    (table,) = result.tables
    for row in table.rows:
        pairs = zip(row.seconds.seconds, table.floor.seconds, strict=True)
        assert row.over_floor.seconds == tuple(mine / floor for mine, floor in pairs)


def test_parts_add_up_to_the_step(result: StepResult) -> None:
    (table,) = result.tables
    for row in table.rows:
        kinds = [part.kind for part in row.parts]
        assert set(kinds) <= set(KINDS)
        assert kinds[-1] == REST
        assert sum(part.over_floor for part in row.parts) == pytest.approx(row.over_floor.median)


def test_only_what_a_row_does_is_among_its_parts(result: StepResult) -> None:
    (table,) = result.tables
    kinds = {row.name: {part.kind for part in row.parts} for row in table.rows}
    assert "teacher forward" not in kinds["plain student"] | kinds["SVD, amortised, from store"]
    assert "SVD of the teacher's maps" not in kinds["SVD, amortised, from store"]
    assert "SVD of the teacher's maps" in kinds["SVD"]
    assert not any("SVD" in kind for kind in kinds["FSP"])
    assert "teacher forward" in kinds["default"] - kinds["default, from store"]


def test_what_is_left_out_is_said(result: StepResult) -> None:
    peers = [row.name for row in result.tables[0].rows if row.name.startswith("torchdistill")]
    if torchdistill_peers(4):
        assert len(peers) == 3
        assert result.left_out == ()
    else:
        assert peers == []
        assert "pip install" in result.left_out[0]


def test_a_result_comes_back_from_its_file(result: StepResult, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    write_result(path, result)
    assert read_result(path, StepResult) == result


def test_no_images_are_an_error() -> None:
    with pytest.raises(ArgumentError, match="batch_size"):
        bench_step(("vgg",), batch_size=0, rounds=1)
