from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.config import DistillConfig, TrainConfig
from svdistill.paper.jobs import (
    Job,
    JobProcesses,
    JobResult,
    _work,
    is_finished,
    require_images,
    run_jobs,
    unfinished,
)
from svdistill.runs.checkpoint import Checkpoints
from svdistill.runs.records import read_records
from svdistill.training import train

TINY = TrainConfig(
    output="",
    data="digits",
    network="mobilenet_student",
    width=0.125,
    train_size=100,
    augmentation="none",
    epochs=1,
    batch_size=50,
    device="cpu",
)


def make(
    jobs: list[Job], max_seconds: float | None = None, at_a_time: int = 2
) -> tuple[list[Job], list[JobResult]]:
    results: list[JobResult] = []
    left = run_jobs(jobs, JobProcesses(at_a_time), ended=results.append, max_seconds=max_seconds)
    return left, results


@pytest.mark.slow
def test_a_student_waits_for_its_teacher_whatever_the_order(tmp_path: Path) -> None:
    teacher = replace(TINY, network="mobilenet_teacher", output=str(tmp_path / "teacher"))
    student = DistillConfig(
        **{**vars(TINY), "output": str(tmp_path / "student")}, teacher=teacher.output
    )
    left, results = make([student, teacher])
    assert left == []
    assert [Path(result.job.output).name for result in results] == ["teacher", "student"]
    assert all(result.failure is None for result in results)
    assert is_finished(student)
    assert is_finished(teacher)
    assert unfinished([student, teacher]) == []


@pytest.mark.slow
def test_a_failure_is_told_and_what_needs_it_is_left(tmp_path: Path) -> None:
    broken = replace(TINY, output=str(tmp_path / "broken"), learning_rate=1e30, epochs=2)
    fine = replace(TINY, output=str(tmp_path / "fine"))
    student = DistillConfig(
        **{**vars(TINY), "output": str(tmp_path / "student")}, teacher=broken.output
    )
    left, results = make([broken, student, fine])
    assert left == [student]
    failures = {Path(result.job.output).name: result.failure for result in results}
    assert failures["fine"] is None
    assert "expected a finite number" in str(failures["broken"])


@pytest.mark.slow
def test_what_runs_when_the_time_is_up_is_stopped_and_goes_on_later(tmp_path: Path) -> None:
    long = replace(TINY, output=str(tmp_path / "long"), epochs=10_000)
    before = (0, 0)
    for seconds in (8.0, 16.0, 32.0, 64.0):  # a busy machine may need longer to begin
        began = time.monotonic()
        left, results = make([long], max_seconds=seconds)
        assert time.monotonic() - began < seconds + 60
        assert (left, results) == ([long], [])
        kept = Checkpoints(Path(long.output)).load(torch.device("cpu"))
        if kept is not None:
            if kept.position.total:
                made = [record.epoch for record in read_records(long.output)]
                assert made[: kept.position.total] == list(range(kept.position.total))
            after = (kept.position.total, kept.epoch_state["steps"] if kept.epoch_state else 0)
            if after > before > (0, 0):
                return
            before = after
    pytest.fail("nothing was trained, or nothing was added, in two minutes")


@pytest.mark.slow
def test_a_process_that_dies_fails_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network_that_exits.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(tmp_path)
    dying = replace(
        TINY, output=str(tmp_path / "dying"), network="network_that_exits:network", width=1.0
    )
    fine = replace(TINY, output=str(tmp_path / "fine"))
    left, results = make([dying, fine], at_a_time=1)
    assert left == []
    assert [result.failure for result in results] == ["its process ended with status 7", None]


def test_no_time_makes_nothing(tmp_path: Path) -> None:
    run = replace(TINY, output=str(tmp_path / "run"))
    assert make([run], max_seconds=0.0) == ([run], [])
    assert not Path(run.output).exists()


def test_a_run_of_other_options_or_images_is_refused(tmp_path: Path) -> None:
    made = replace(TINY, output=str(tmp_path / "made")).filled()
    train(made)
    assert is_finished(replace(made, data="folder:elsewhere", device="auto"))
    with pytest.raises(RunError, match="epochs"):
        is_finished(replace(made, epochs=2))
    require_images(replace(made, output=str(tmp_path / "new")), "0123")
    with pytest.raises(RunError, match="images that --data names"):
        require_images(made, "0123")


SCRIPT = """
import sys
from dataclasses import replace
from multiprocessing import get_context
from svdistill.paper.jobs import JobProcesses, run_jobs
from svdistill.config import TrainConfig

if __name__ == "__main__":
    run = TrainConfig(output=sys.argv[1], data="digits", network="mobilenet_student", width=0.125,
                      train_size=100, epochs=10_000, batch_size=50, device="cpu")
    run_jobs([run], JobProcesses(1), ended=print)
"""


@pytest.mark.slow
def test_no_run_outlives_the_command(tmp_path: Path) -> None:
    script, output = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    command = subprocess.Popen([sys.executable, str(script), str(output)])
    deadline = time.monotonic() + 90
    while not (output / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    command.kill()
    command.wait()
    time.sleep(2)
    epochs = len(read_records(output))
    time.sleep(3)
    assert len(read_records(output)) == epochs


def test_a_process_whose_parent_no_longer_listens_ends_without_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(JobProcesses(1), theirs))
    process.start()
    theirs.close()
    ours.send(replace(TINY, data="folder:/no/such/folder", output="/no/such/run"))
    ours.close()
    process.join(120)
    assert process.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_that_chose_its_precision_counts_as_finished(tmp_path: Path) -> None:
    job = replace(TINY, output=str(tmp_path / "run"), train_size=50)
    train(replace(job, precision="bf16"))
    assert is_finished(replace(job, precision="auto"))
    with pytest.raises(RunError, match=r"precision 'float32', as planned.*got 'bf16'"):
        is_finished(job)
    with pytest.raises(RunError, match="epochs 2, as planned"):
        is_finished(replace(job, precision="auto", epochs=2))
