import json

import pytest
import torch

from svdistill.data import ResidentSplit
from svdistill.runs.records import read_records
from svdistill.training import progress as progress_module, train
from svdistill.training.progress import LoadingTime, loading_advice
from tiny_runs import Watching, train_config

SPLIT = ResidentSplit(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long())


CPU = torch.device("cpu")


def test_only_waiting_counts(monkeypatch):
    """On a clock that goes on only where somebody works, with batches that take their time."""
    now = 0.0

    def batches(*durations):
        nonlocal now
        for number, duration in enumerate(durations):
            now += duration
            yield number

    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now)
    loading = LoadingTime(CPU)
    seen = []
    for batch in loading.watch(batches(2.0, 0.5, 0.25)):
        now += 100.0  # the step
        seen.append((batch, loading.seconds()))
    assert seen == [(0, 2.0), (1, 2.5), (2, 2.75)]
    assert loading.seconds() == 2.75


def test_an_error_on_the_way_is_raised():
    def broken():
        yield 1
        raise KeyError

    watched = LoadingTime(CPU).watch(broken())
    assert next(watched) == 1
    with pytest.raises(KeyError):
        next(watched)


@pytest.mark.parametrize(("loading", "advised"), [(0.0, False), (3.0, False), (3.1, True)])
def test_advice_is_for_those_who_wait_much(loading, advised):
    advice = loading_advice(loading, 10.0, SPLIT)
    assert (advice is not None) == advised
    if advice is not None:
        assert advice.startswith("31 % of the time training waits for images; ")
        assert advice.endswith(SPLIT.loading_remedy)


@pytest.mark.parametrize(("wait", "times"), [(0.0, 0), (1e6, 1)])
def test_a_run_says_once_that_it_waits(tmp_path, monkeypatch, wait, times):
    monkeypatch.setattr(LoadingTime, "seconds", lambda self: wait * len(self.waits))
    watching = Watching()
    train(train_config(tmp_path / "run"), watching)
    told = [told[1] for told in watching.told if told[0] == "message"]
    assert sum("training waits for images" in text for text in told) == times
    records = read_records(tmp_path / "run")
    assert [record.loading_seconds for record in records] == [4 * wait] * 2


def test_runs_from_before_it_was_measured_are_read(student_run, tmp_path):
    lines = [json.loads(line) for line in (student_run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line.pop("loading_seconds") < line["seconds"] for line in lines)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {record.loading_seconds for record in read_records(tmp_path)} == {None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_that_is_busy_nothing_is_waited_for():
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)

    def busy(batches):
        for batch in batches:
            for _ in range(50):
                torch.mm(matrix, matrix)
            yield batch

    list(LoadingTime(device).watch(iter([0])))  # starts what there is to start
    loading = LoadingTime(device)
    before = torch.cuda.Event(enable_timing=True)
    before.record()
    for _ in loading.watch(iter(range(3))):
        list(busy([0]))
    after = torch.cuda.Event(enable_timing=True)
    after.record()
    after.synchronize()
    assert loading.seconds() < 0.1 * before.elapsed_time(after) / 1000
