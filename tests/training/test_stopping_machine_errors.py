"""What a machine lacks is one line, and nothing that was written before is lost."""

import contextlib
import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from svdistill.cli import main
from svdistill.common.errors import DataWarning, MachineError, RunError, warn_of_data
from svdistill.common.files import write_atomically
from svdistill.config import CacheConfig
from svdistill.data.splits import StreamedSplit
from svdistill.runs import directory as run_directory_module, load_student
from svdistill.runs.checkpoint import Checkpoint, Checkpoints, TrainingPosition, load_checkpoint
from svdistill.runs.weights import read_card, save_weights
from svdistill.training import cache_knowledge, train
from svdistill.training.stopping import as_machine_error, explain_machine_errors
from tiny_runs import KillAfter, Killed, outcome, snapshot, train_config

LARGE = {"network": {"weight": torch.zeros(500_000)}}  # 2 MB
FULL = r"expected a (file|disk) that can be written, got No space left on device; "


@contextlib.contextmanager
def small_disk(folder, size="1m"):
    """A disk of its own for a folder, which root alone can mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def largest_file(size):
    """Files of this process can grow to so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestAFullDisk:
    def test_a_checkpoint(self, tmp_path):
        with small_disk(tmp_path) as disk:
            kept = Checkpoints(disk)
            for epoch in (1, 2):
                kept.save(Checkpoint(TrainingPosition(epoch=epoch), {}))
            before = snapshot(disk)
            with pytest.raises(RunError, match=r"checkpoint\.pt: " + FULL):
                kept.save(Checkpoint(TrainingPosition(epoch=3), LARGE))
            assert snapshot(disk) == before
            assert kept.load(torch.device("cpu")).position.epoch == 2

    def test_weights(self, tmp_path, teacher_run):
        card = read_card(teacher_run / "student.safetensors")
        network = load_student(teacher_run)
        with small_disk(tmp_path, "16k") as disk:
            with pytest.raises(RunError, match=r"student\.safetensors: " + FULL):
                save_weights(disk / "student.safetensors", network, card)
            assert snapshot(disk) == {}

    def test_a_run_goes_on_when_there_is_room_again(self, tmp_path):
        """Filled up after the first epoch: one line, and what was saved is used."""
        config = train_config(tmp_path / "disk" / "run", epochs=3)
        (tmp_path / "disk").mkdir()
        train(dataclasses.replace(config, output=str(tmp_path / "whole")))
        with small_disk(tmp_path / "disk", "8m") as disk:

            class Fill(KillAfter):
                def epoch(self, record):
                    with contextlib.suppress(OSError), (disk / "full").open("wb") as file:
                        while True:
                            file.write(bytes(4096))
                            file.flush()

            with pytest.raises((RunError, MachineError), match="No space left on device"):
                train(config, Fill(1))
            (disk / "full").unlink()
            assert not list((disk / "run").glob(".*.tmp"))
            train(dataclasses.replace(config, resume=True))
            assert outcome(disk / "run") == outcome(tmp_path / "whole")

    def test_a_store(self, tmp_path, teacher_run):
        config = CacheConfig(output=str(tmp_path / "store"), teacher=str(teacher_run), views=2)
        (tmp_path / "store").mkdir()
        with small_disk(tmp_path / "store", "300k") as disk:
            with pytest.raises(RunError, match=r"view-\d+-from-\d+\.bin: " + FULL):
                cache_knowledge(config)
            assert not [name for name in snapshot(disk) if name.endswith((".tmp", ".lock"))]
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            store = cache_knowledge(dataclasses.replace(config, resume=True))
            assert store.manifest.complete

    def test_a_report(self, tmp_path, teacher_run, capsys):
        with small_disk(tmp_path, "16k") as disk:
            assert main(["report", str(teacher_run), "-o", str(disk / "report.html")]) == 2
            assert snapshot(disk) == {}
        said = capsys.readouterr().err
        assert "report.html: expected a file that can be written, got No space left" in said
        assert said.count("\n") == 1


class TestAFileThatMayNotGrow:
    """What a quota does, without root."""

    def test_a_checkpoint(self, tmp_path):
        kept = Checkpoints(tmp_path)
        kept.save(Checkpoint(TrainingPosition(epoch=1), {}))
        before = snapshot(tmp_path)
        with (
            largest_file(1 << 20),
            pytest.raises(RunError, match=r"checkpoint\.pt: .* got File too large"),
        ):
            kept.save(Checkpoint(TrainingPosition(epoch=2), LARGE))
        assert snapshot(tmp_path) == before

    def test_what_torch_says_of_its_own_writer(self, tmp_path):
        """`torch.save` to a path: its error names no cause."""
        with (
            largest_file(1 << 20),
            pytest.raises(RunError, match="a file that was cut short while it was written"),
        ):
            write_atomically(tmp_path / "a.pt", lambda temporary: torch.save(LARGE, temporary))
        assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", ["append", "finish", "keep_epochs"])
def test_metrics_and_summary(tmp_path, monkeypatch, name):
    """Whatever cannot be written, the run goes on from its checkpoint."""
    config = train_config(tmp_path / "run")
    train(dataclasses.replace(config, output=str(tmp_path / "whole")))

    def full(*_arguments):
        def write(temporary):
            temporary.write_text("some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write_atomically(tmp_path / "run" / "metrics.jsonl", write)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory_module.RunDirectory, name, full)
        with pytest.raises(RunError, match=FULL):
            train(config)
    assert not list((tmp_path / "run").glob(".*"))
    train(dataclasses.replace(config, resume=True))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "run").mkdir()
    with small_disk(tmp_path / "run") as disk:
        with pytest.raises(Killed):
            train(train_config(disk), KillAfter(1))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = snapshot(disk)
        with pytest.raises(RunError, match="directory that can be written, got Read-only file"):
            train(train_config(disk, resume=True))
        assert snapshot(disk) == before


class TestMemory:
    def test_more_than_there_is(self):
        with (
            pytest.raises(MachineError, match=r"memory: .*DefaultCPUAllocator.*--batch_size"),
            explain_machine_errors(),
        ):
            torch.empty(1 << 60)

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
            MemoryError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_as_others_say_it(self, error):
        said = str(as_machine_error(error))
        assert said.startswith("memory: expected enough of it for a step, got ")
        assert "--batch_size" in said

    def test_in_a_run_the_last_checkpoint_stays(self, tmp_path, monkeypatch):
        class Greedy(KillAfter):
            def step(self, meter):
                if meter.steps == 2:
                    torch.empty(1 << 60)

        config = train_config(tmp_path / "run", checkpoint_minutes=1e-9)
        with pytest.raises(MachineError):
            train(config, Greedy(0))
        kept = load_checkpoint(tmp_path / "run" / "checkpoint.pt", torch.device("cpu"))
        assert kept.epoch_state["steps"] == 1
        train(dataclasses.replace(config, resume=True))
        train(dataclasses.replace(config, output=str(tmp_path / "whole")))
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")

    def test_the_command(self, tmp_path, monkeypatch, capsys):
        def greedy(options):
            torch.empty(1 << 60)

        monkeypatch.setattr(sys.modules["svdistill.cli.main"]._Commands, "info", greedy)
        assert main(["info"]) == 2
        assert capsys.readouterr().err.startswith("svdistill: memory: expected enough of it")


class Deadly:
    """Pictures that end the process which decodes them."""

    shape = (3, 8, 8)

    def __init__(self):
        self.parent = os.getpid()

    def read(self, rows):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_process_that_decodes_dies():
    split = StreamedSplit(Deadly(), np.arange(4), torch.zeros(4, dtype=torch.int64), workers=1)
    with (
        pytest.raises(MachineError, match=r"workers: .*DataLoader worker.*--workers 0"),
        explain_machine_errors(),
    ):
        list(split.batches(2, device="cpu", order_seed=None))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"),
        PermissionError(errno.EACCES, "Permission denied", "a.png"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_none_of_the_machines(error):
    assert as_machine_error(error) is None
    with pytest.raises(type(error)), explain_machine_errors():
        raise error


def test_a_warning_of_data_names_the_line_that_called_train():
    with pytest.warns(DataWarning, match="left out") as told:
        explain_machine_errors()(warn_of_data)("left out 1 file")
    assert told[0].filename == __file__
