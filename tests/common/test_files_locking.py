from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from svdistill.common.errors import RunError
from svdistill.common.files import LOCK_NAME, locked, require_unlocked

fcntl = pytest.importorskip("fcntl")

HOLDER = """
import sys, time
from pathlib import Path
from svdistill.common.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def enter(folder: Path) -> None:
    with locked(folder):
        pass


def test_another_process_is_told_who_holds_it(holder, tmp_path):
    who = rf"held by process {holder.pid} on '{socket.gethostname()}' since '20"
    for try_to in (enter, require_unlocked):
        with pytest.raises(RunError, match=who):
            try_to(tmp_path)
    assert (tmp_path / LOCK_NAME).exists()


def test_the_lock_ends_with_a_killed_process(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_NAME).exists()  # it could not remove that
    require_unlocked(tmp_path)
    enter(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_and_can_be_taken_again(tmp_path):
    for _ in range(3):
        with locked(tmp_path):
            note = json.loads((tmp_path / LOCK_NAME).read_text())
            assert note["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == []


def test_it_ends_with_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    enter(tmp_path)


def test_a_thread_of_the_same_process_is_another_holder(tmp_path):
    refused = []

    def try_it() -> None:
        try:
            enter(tmp_path)
        except RunError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"process {os.getpid()} on" in refused[0]


def test_a_forked_process_does_not_keep_it(tmp_path):
    """Those that decode images outlive a killed parent by seconds."""
    with warnings.catch_warnings(), locked(tmp_path):
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        go_on, wait = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(wait)
            os.read(go_on, 1)
            os._exit(0)
        os.close(go_on)
    try:
        enter(tmp_path)
        with locked(tmp_path), pytest.raises(RunError):
            enter(tmp_path)  # its end in the child did not end ours
    finally:
        os.close(wait)
        os.waitpid(child, 0)


def test_a_file_that_its_holder_has_just_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def slow(descriptor: int, how: int) -> None:
        if not removed:
            (tmp_path / LOCK_NAME).unlink()
            removed.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path):
        assert removed
        assert (tmp_path / LOCK_NAME).exists()
        with pytest.raises(RunError):
            enter(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch, number):
    def unable(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unable)
    require_unlocked(tmp_path)
    with (
        pytest.warns(RuntimeWarning, match=rf"cannot be locked \({os.strerror(number)}\)"),
        locked(tmp_path),
    ):
        assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match="a directory that can be written"):
        enter(tmp_path)
    assert (tmp_path / "other").read_text() == "kept"


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="a directory that can be written, got No such file"):
        enter(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"pid": 1}', b'{"pid": "x"}', b"\xff"])
def test_a_note_that_cannot_be_read(tmp_path, note):
    with locked(tmp_path):
        (tmp_path / LOCK_NAME).write_bytes(note)
        with pytest.raises(RunError, match="held by another process"):
            enter(tmp_path)
