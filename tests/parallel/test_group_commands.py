"""`train` and `distill` as launchers start them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kills import outcome
from safetensors.torch import load_file

from svdistill.cli import main
from svdistill.config import DistillConfig, TrainConfig
from svdistill.parallel import TIMEOUT
from svdistill.runs.records import read_environment, read_records, read_summary
from svdistill.training import distill, train
from together import ENDS_WITHIN, ENVIRONMENT, ended, free_port, start_programs, start_ranks

TINY = {
    "data": "digits",
    "network": "mobilenet_student",
    "width": 0.05,
    "train_size": 101,  # the last batch has five images
    "dev_fraction": 0.1,
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.001,
    "device": "cpu",
}


def options(**changes):
    return [
        word for name, value in {**TINY, **changes}.items() for word in (f"--{name}", str(value))
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A teacher, and a student of one process."""
    folder = tmp_path_factory.mktemp("runs")
    train(TrainConfig(output=str(folder / "teacher"), **TINY))
    distill(distill_config(folder, "alone"))
    return folder


def distill_config(runs, name, **changes):
    return DistillConfig(**TINY | distill_options(runs, name) | changes)


def distill_words(runs, name):
    return ["distill", *options(**distill_options(runs, name))]


def distill_options(runs, name):
    paths = {"output": str(runs / name), "teacher": str(runs / "teacher")}
    student = {"network": "smooth_network:smooth_student", "width": 1.0}
    # Of one singular vector the sign may be a toss-up, and rounding then decides: not here.
    return {**paths, **student, "loss": "position_svd+soft_target"}


@pytest.fixture(scope="module")
def launched(runs):
    """The same student of two processes, by Accelerate's launcher; and what it printed."""
    words = distill_words(runs, "two")
    # On CPUs too: `--cpu` would start one process. Not on its own port, where others may be.
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", free_port()]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "svdistill", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
    )


def require_close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_leave_the_run_of_one(runs, launched):
    assert launched.returncode == 0, launched.stderr
    files = [sorted(path.name for path in (runs / name).iterdir()) for name in ("alone", "two")]
    assert [name for name in files[1] if name != "report.html"] == files[0]
    for name in ("student.safetensors", "student-best.safetensors"):
        one, two = (load_file(runs / run / name) for run in ("alone", "two"))
        require_close(two, one)
    assert read_environment(runs / "two" / "environment.json")["processes"] == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(runs, launched):
    records = [read_records(runs / name) for name in ("alone", "two")]
    assert len(records[0]) == len(records[1]) == 3
    for one, two in zip(*records, strict=True):
        for name in ("learning_rate", "train_accuracy", "dev_accuracy", "test_accuracy"):
            assert getattr(two, name) == getattr(one, name), name
        for name in ("task_loss", "transfer_loss", "test_loss", "task_norm", "transfer_norm"):
            assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-4), name
        assert two.svd_close == pytest.approx(one.svd_close, abs=0.01)
    one, two = (read_summary(runs / name) for name in ("alone", "two"))
    assert two.best_accuracy == one.best_accuracy
    assert two.teacher_accuracy == one.teacher_accuracy


@pytest.mark.slow
def test_one_process_prints(launched):
    assert launched.stdout.count("after the last epoch") == 1
    assert launched.stdout.count("both epoch   1") == 1
    assert launched.stdout.count("digits: ") == 1


@pytest.fixture(scope="module")
def killed(runs):
    """What became of two processes of which one was killed after an epoch, and where."""
    ranks = start_ranks(*[distill_words(runs, "killed")] * 2)
    deadline = time.monotonic() + ENDS_WITHIN
    while not (runs / "killed" / "checkpoint.pt").exists():
        assert all(process.poll() is None for process in ranks), [ended(rank) for rank in ranks]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(ranks[1].pid, signal.SIGKILL)
    return [ended(rank) for rank in ranks]  # raises where one hangs


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(killed, runs):
    (status, _, said), (died, *_) = killed
    assert (status, died) == (2, -signal.SIGKILL)
    assert "svdistill: process 0: expected an answer of every other process" in said
    assert "--resume" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(killed, runs):
    assert not (runs / "killed" / "summary.json").exists()
    distill(distill_config(runs, "killed", resume=True))
    found, expected = (load_file(runs / run / "student.safetensors") for run in ("killed", "alone"))
    require_close(found, expected)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_all_go_on_as_if_none_had_come(runs, launched):
    words = distill_words(runs, "stopped")
    sixth = [str(Path(__file__).parents[1] / "helpers" / "signal_at_a_step.py"), "SIGTERM", "6"]
    ranks = start_programs(["-m", "svdistill", *words], [*sixth, *words])
    (status, _, said), (other, out, silent) = map(ended, ranks)
    assert (status, other) == (143, 143)
    assert said.count("stopped by SIGTERM after step 2 of 4 in epoch 2") == 1
    assert "--resume" in said
    assert (out, "svdistill" in silent) == ("", False)
    going_on = [*words, "--resume"]
    assert [ended(rank)[0] for rank in start_ranks(going_on, going_on)] == [0, 0]
    assert outcome(runs / "stopped") == outcome(runs / "two")


@pytest.mark.slow
def test_a_finished_run_ends_all_processes(runs):
    ranks = start_ranks(*[distill_words(runs, "alone")] * 2)
    (status, _, said), (other, out, silent) = map(ended, ranks)
    assert (status, other) == (2, 2)
    assert "a finished run" in said
    assert said.count("svdistill:") == 1
    assert (out, "svdistill" in silent) == ("", False)


@pytest.mark.slow
def test_processes_that_were_asked_otherwise_do_not_begin(tmp_path):
    words = ["train", "--output", str(tmp_path / "run"), *options()]
    (status, _, said), (other, _, silent) = map(ended, start_ranks(words, [*words, "--seed", "1"]))
    assert (status, other) == (2, 2)
    assert "seed: expected the same in all processes that train together, 0 as in" in said
    assert "svdistill" not in silent
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["info"], ["train", "--epochs", "0"], ["train", "--nonsense"]])
def test_what_is_wrong_with_the_command_is_told_once(words, monkeypatch, capfd):
    monkeypatch.setattr("svdistill.cli.processes.PATIENCE", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(words) == 2
        said.append(capfd.readouterr().err)
    assert said[0].count("svdistill:") == 1
    assert said[1] == ""


def test_other_commands_run_alone(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["info"]) == 2
    assert "num_processes: expected 1 for `svdistill info`, got 2" in capfd.readouterr().err


def test_a_launcher_that_starts_one_process_is_noticed(monkeypatch, capfd, tmp_path):
    """`accelerate launch --cpu --num_processes 2` does, where there is no MPI."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert main(["train", "--output", str(tmp_path / "run"), *options()]) == 2
    assert "num_processes: expected a launcher that starts several" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_time_that_is_waited_reaches_torch(monkeypatch):
    """Accelerate passes on no time that it takes for a default."""
    from accelerate import InitProcessGroupKwargs

    assert InitProcessGroupKwargs("gloo", timeout=TIMEOUT).to_kwargs()["timeout"] == TIMEOUT
