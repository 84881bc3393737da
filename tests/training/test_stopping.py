"""Signals end a run at the end of its step, with a checkpoint and a line that says how to go on."""

import dataclasses
import itertools
import shlex
import signal
import sys
import threading

import pytest
import torch

from svdistill.cli import main
from svdistill.common.errors import Stopped
from svdistill.runs.records import read_summary
from svdistill.training import (
    distill,
    stopping as stopping_module,
    train,
    trainer as trainer_module,
)
from svdistill.training.progress import BarReporter, Reporter
from svdistill.training.stopping import StopRequests
from tiny_runs import distill_config, outcome, train_config


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is heard even where the tests run behind `nohup` or a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignalAtStep(Reporter):
    """Sends a signal to its own process in the middle of a step."""

    def __init__(self, step, number):
        self.left = step
        self.number = number

    def step(self, meter):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


class TestRequests:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_waits_until_it_is_asked_for(self, number):
        before = signal.getsignal(number)
        with StopRequests() as stops:
            stops.check("before")
            signal.raise_signal(number)
            with pytest.raises(Stopped, match=r"stopped by .* after step 2") as caught:
                stops.check("after step 2")
        assert caught.value.status == 128 + number
        assert signal.getsignal(number) is before

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_interrupt_leaves_at_once(self, first):
        def interrupted():
            with StopRequests():
                signal.raise_signal(first)
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt) as caught:
            interrupted()
        assert not isinstance(caught.value, Stopped)

    def test_a_second_termination_does_not(self):
        with StopRequests() as stops:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert stops.requested == signal.SIGINT

    def test_one_that_comes_while_others_are_asked_stops_all_after_the_next_step(self, monkeypatch):
        told = []

        def gather(own):
            told.append(int(own[0]))
            if len(told) == 1:
                signal.raise_signal(signal.SIGTERM)
            return [own, torch.zeros_like(own)]

        monkeypatch.setattr(stopping_module, "is_grouped", lambda: True)
        monkeypatch.setattr(stopping_module, "gather", gather)
        with StopRequests() as stops:
            stops.poll(torch.device("cpu"))
            stops.check("after step 1")
            stops.poll(torch.device("cpu"))
            with pytest.raises(Stopped, match="after step 2") as caught:
                stops.check("after step 2")
        assert caught.value.everywhere
        assert told == [0, signal.SIGTERM]

    def test_what_is_ignored_stays_ignored(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with StopRequests() as stops:
                signal.raise_signal(signal.SIGINT)
                stops.check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)

    def test_in_another_thread_nothing_is_caught(self):
        before, during = signal.getsignal(signal.SIGTERM), []

        def work():
            with StopRequests() as stops:
                during.append(signal.getsignal(signal.SIGTERM))
                stops.check()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert during == [before]


class TestARun:
    # Of 4 steps an epoch: within, with the last step of an epoch, and in the last epoch.
    @pytest.mark.parametrize("step", [1, 4, 6])
    def test_goes_on_from_the_very_step(self, tmp_path, teacher_run, step):
        config = train_config(tmp_path / "run", seed=7, epochs=3, dev_fraction=0.2)
        epoch, within = (step - 1) // 4, (step - 1) % 4 + 1
        message = rf"SIGTERM after step {within} of 4 in epoch {epoch + 1}"
        with pytest.raises(Stopped, match=message):
            train(config, SignalAtStep(step, signal.SIGTERM))
        assert (tmp_path / "run" / "checkpoint.pt").exists()
        assert not (tmp_path / "run" / ".lock").exists()
        resumed = SignalAtStep(1000, signal.SIGTERM)
        train(dataclasses.replace(config, resume=True), resumed)
        assert 1000 - resumed.left == 12 - step
        assert outcome(tmp_path / "run") == outcome(teacher_run)

    def test_in_an_evaluation(self, tmp_path, teacher_run, monkeypatch):
        evaluate, calls = trainer_module.evaluate_network, []

        def signalling(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 3:  # of the test and the dev images, in turn
                signal.raise_signal(signal.SIGTERM)
            return evaluate(*arguments, **options)

        monkeypatch.setattr(trainer_module, "evaluate_network", signalling)
        config = train_config(tmp_path / "run", seed=7, epochs=3, dev_fraction=0.2)
        with pytest.raises(Stopped, match="after the last step of epoch 2"):
            train(config)
        resumed = SignalAtStep(1000, signal.SIGTERM)
        train(dataclasses.replace(config, resume=True), resumed)
        assert 1000 - resumed.left == 4  # the steps of the third epoch
        assert outcome(tmp_path / "run") == outcome(teacher_run)

    def test_before_its_first_step(self, tmp_path, teacher_run, monkeypatch):
        enter = StopRequests.__enter__

        def signalled(stops):
            enter(stops)
            signal.raise_signal(signal.SIGTERM)
            return stops

        monkeypatch.setattr(StopRequests, "__enter__", signalled)
        config = distill_config(tmp_path / "run", teacher_run)
        with pytest.raises(Stopped):
            distill(config)
        monkeypatch.undo()
        distill(dataclasses.replace(config, resume=True))
        assert (tmp_path / "run" / "summary.json").exists()


WORDS = (
    *("train", "--network", "mobilenet_student", "--width", "0.1", "--train_size", "200"),
    *("--augmentation", "none", "--epochs", "2", "--batch_size", "64"),
)


class TestTheCommand:
    @pytest.fixture
    def signals(self, monkeypatch):
        """Signals to raise at numbered steps of the command's run."""
        signals, step, count = {}, BarReporter.step, itertools.count(1)

        def signalling(reporter, meter):
            for number in signals.get(next(count), ()):
                signal.raise_signal(number)
            step(reporter, meter)

        monkeypatch.setattr(BarReporter, "step", signalling)
        return signals

    @pytest.mark.parametrize(
        ("number", "status"),
        [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
        ids=str,
    )
    def test_says_how_to_go_on_and_its_status_why_it_ended(
        self, tmp_path, signals, capsys, number, status
    ):
        output = tmp_path / "my run"
        signals[6] = [number]
        assert main([*WORDS, "--output", str(output)]) == status
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(
            f"svdistill: stopped by {signal.Signals(number).name} after step 2 of 4 in epoch 2; "
            "go on with: svdistill train "
        )
        command = shlex.split(line.partition("go on with: ")[2])
        assert command == ["svdistill", *WORDS, "--output", str(output), "--resume"]
        assert main(command[1:]) == 0
        assert (output / "summary.json").exists()

    def test_a_second_interrupt_leaves_at_once_and_what_was_saved_is_whole(
        self, tmp_path, signals, capsys
    ):
        words = [*WORDS, "--output", str(tmp_path / "run")]
        signals[6] = [signal.SIGINT, signal.SIGINT]
        assert main(words) == 130
        assert "svdistill: interrupted; go on with: " in capsys.readouterr().err
        assert main([*words, "--resume"]) == 0


def test_a_finished_run_that_is_stopped_while_it_is_reported_is_not_resumed(
    student_run, monkeypatch, capsys
):
    finished = read_summary(student_run)
    monkeypatch.setattr("svdistill.training.distill", lambda *_: finished)
    shown = sys.modules["svdistill.cli.main"]
    monkeypatch.setattr(shown, "_show_gain", lambda _: signal.raise_signal(signal.SIGTERM))
    assert main(["distill", "--teacher", "teacher", "--output", str(student_run)]) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "svdistill: stopped by SIGTERM; the run is finished"


def test_a_command_that_does_not_train_is_terminated_with_a_line(monkeypatch, capsys):
    def terminated(options):
        signal.raise_signal(signal.SIGTERM)

    commands = sys.modules["svdistill.cli.main"]._Commands
    monkeypatch.setattr(commands, "info", staticmethod(terminated))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["info"]) == 143
    assert capsys.readouterr().err == "svdistill: stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before
