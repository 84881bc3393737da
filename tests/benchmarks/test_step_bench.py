from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from svdistill.common import ArgumentError, Case, Measurement, keep_memory
from svdistill.distillation import AmortisedBackward
from svdistill.taps import FeatureTaps
from svdistill_benchmarks import step
from svdistill_benchmarks.machine import in_process
from svdistill_benchmarks.peers import torchdistill_peers
from svdistill_benchmarks.run import read_result, write_result
from svdistill_benchmarks.step import (
    NetworkSteps,
    StepResult,
    bench_step,
    measure_pair,
    row_seconds,
)
from svdistill_benchmarks.step_parts import KINDS, REST
from svdistill_benchmarks.step_rows import METHODS, Steps, method_steps
from svdistill_benchmarks.tables import summary_table
from svdistill_benchmarks.workload import new_workload

OURS = [
    "plain student",
    "soft target, by hand",
    "SVD, straightforward",
    "soft target",
    "FSP",
    "SVD",
    "SVD, amortised",
    "SVD, amortised, from store",
    "position SVD + soft target",
    "position SVD + soft target, from store",
    "Gram of positions 8x8 + soft target",
    "Gram of positions 8x8 + soft target, from store",
    "Gram of positions 4x4 + DIST",
    "Gram of positions 4x4 + DIST, from store",
]


@pytest.fixture(scope="module")
def result() -> StepResult:
    """Of this process, and the same as if memory had been kept."""

    def here(work: partial[NetworkSteps]) -> NetworkSteps:
        pair, rounds, keeps_memory = work.args
        if not keeps_memory:
            tables.append(measure_pair(pair, rounds, False, **work.keywords))
        return replace(tables[-1], keeps_memory=keeps_memory)

    tables: list[NetworkSteps] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "in_process", here)
        return bench_step(("vgg",), batch_size=2, width=0.125, rounds=2)


@pytest.mark.slow
def test_memory_is_kept_in_a_process_of_its_own() -> None:
    """The setting of the allocator would last."""
    workload = {"batch_size": 2, "width": 0.05, "device": torch.device("cpu")}
    table = in_process(partial(measure_pair, "vgg", 1, True, **workload))
    assert table.keeps_memory == in_process(keep_memory)
    assert [row.name for row in table.rows if row.store_bytes] == [
        name for name in OURS if name.endswith("from store")
    ]


def test_every_row_is_timed_in_every_round(result: StepResult) -> None:
    table, kept = result.tables
    assert (table.keeps_memory, kept.keeps_memory) == (False, True)
    names = [row.name for row in table.rows]
    assert [name for name in names if not name.startswith("torchdistill")] == OURS
    assert len(names) == len(set(names))
    assert all(len(row.seconds.seconds) == 2 for row in table.rows)
    assert all(row.seconds.median > 0 for row in table.rows)


def test_ratios_are_to_the_floor(result: StepResult) -> None:
    table = result.tables[0]
    for row in table.rows:
        pairs = zip(row.seconds.seconds, table.floor.seconds, strict=True)
        assert row.over_floor.seconds == tuple(mine / floor for mine, floor in pairs)


def test_parts_add_up_to_the_step(result: StepResult) -> None:
    table = result.tables[0]
    for row in table.rows:
        kinds = [part.kind for part in row.parts]
        assert set(kinds) <= set(KINDS)
        assert kinds[-1] == REST
        assert sum(part.over_floor for part in row.parts) == pytest.approx(row.over_floor.median)


def test_only_what_a_row_does_is_among_its_parts(result: StepResult) -> None:
    table = result.tables[0]
    kinds = {row.name: {part.kind for part in row.parts} for row in table.rows}
    assert "teacher forward" not in kinds["plain student"] | kinds["SVD, amortised, from store"]
    assert "SVD of the teacher's maps" not in kinds["SVD, amortised, from store"]
    assert "SVD of the teacher's maps" in kinds["SVD"]
    assert not any("SVD" in kind for kind in kinds["FSP"])
    for name in OURS:
        if name.endswith(", from store"):
            live = kinds[name.removesuffix(", from store")]
            assert "teacher forward" in live - kinds[name]


def test_kinds_of_steps_are_weighted_in_every_round() -> None:
    cases = [Case(name, int) for name in "ab"]
    steps = Steps(((cases[0], 0.75), (cases[1], 0.25)))
    seconds = {"a": Measurement.of([1.0, 2.0]), "b": Measurement.of([5.0, 2.0])}
    assert row_seconds(steps, seconds).seconds == (2.0, 2.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_with_two_gradients_is_every_tenth(name: str) -> None:
    """The shares are those of a step that chooses itself."""
    options = {"batch_size": 2, "width": 0.05, "device": torch.device("cpu")}
    steps = method_steps(new_workload("vgg", **options), name)
    assert sum(share for _, share in steps.kinds) == 1.0
    measured = AmortisedBackward(METHODS[name].clip_interval)
    weight = torch.nn.Parameter(torch.ones(1))
    chosen = []
    for _ in range(20):
        chosen.append(measured.plan(0.0))
        weight.grad = None
        measured(weight.sum(), weight.sum(), [weight], measure=chosen[-1])
    if len(steps.kinds) == 2:
        (_, one), (_, two) = steps.kinds
        assert two == sum(chosen) / len(chosen)
        assert one == 1 - two


def test_a_stores_bytes_are_those_on_disk() -> None:
    """For 4 taps: values of 1 vector and its channels, or positions of 4 vectors; 100 logits."""
    options = {"batch_size": 2, "width": 0.25, "device": torch.device("cpu")}
    workload = new_workload("vgg", **options)
    with torch.no_grad():
        maps = FeatureTaps(workload.teacher, workload.taps.teacher).run(workload.images).features
    half = {
        "SVD, amortised, from store": [(one.shape[1], 1) for one in maps],
        "Gram of positions 4x4 + DIST, from store": [
            (min(one.shape[2], 4) ** 2, min(one.shape[2], 4) ** 2) for one in maps
        ],
    }
    for name, sizes in half.items():
        numbers = [rows * columns for rows, columns in sizes]
        # At most 16 numbers of a tensor stay float32.
        expected = sum(count * (4 if count <= 16 else 2) for count in numbers)
        expected += 4 * 4 if name.startswith("SVD") else 2 * 100
        assert method_steps(workload, name).store_bytes == expected


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


def test_the_short_table_compares_with_the_plain_student(result: StepResult) -> None:
    table = summary_table(result)
    assert [column.heading for column in table.columns] == ["", "VGG", "bytes in a store"]
    kept = {row.name: row.seconds for row in result.tables[1].rows}
    (cells,) = (row for row in table.rows if row[0].text == "FSP")
    assert cells[1].number == kept["FSP"].ratios_to(kept["plain student"]).median


def test_no_images_are_an_error() -> None:
    with pytest.raises(ArgumentError, match="batch_size"):
        bench_step(("vgg",), batch_size=0, rounds=1)
