import os
import platform
import subprocess
import sys

import pytest

from svdistill.common import machine as memory
from svdistill.common.machine import ALLOCATORS, ENVIRONMENT, keep_memory
from svdistill.training import train
from tiny_runs import train_config

# A block of 64 MB, cleared: its 16,384 pages are got from the kernel, or are still there.
FAULTS = """
import resource
from svdistill import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(2**26)[::4096] = bytes(range(256)) * 64
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before, is_set, _, after = faults(), keep_memory(), faults(), faults()
print(before, is_set, after)
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@pytest.fixture
def silent(monkeypatch):
    """An environment that says nothing about memory."""
    for name in (*ENVIRONMENT, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unset(monkeypatch):
    """No setting may reach the process of the tests."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("mallopt was called"))


@on_glibc
@pytest.mark.usefixtures("silent")
def test_a_block_that_was_freed_is_used_again():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=os.environ
    )
    before, is_set, after = done.stdout.split()
    assert is_set == "True"
    assert int(before) > 10_000
    assert int(after) < 1_000


@pytest.mark.usefixtures("silent", "unset")
@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2")])
def test_another_c_library_is_left_alone(monkeypatch, library):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: library)
    assert not keep_memory()


@pytest.mark.usefixtures("silent", "unset")
@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_the_environment_says_stays(monkeypatch, name):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv(name, "1")
    assert not keep_memory()


@pytest.mark.usefixtures("silent", "unset")
@pytest.mark.parametrize("name", ALLOCATORS)
def test_another_allocator_is_left_alone(monkeypatch, name):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("LD_PRELOAD", f"/usr/lib/lib{name}.so.2")
    assert not keep_memory()


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("most", "asked"),
    [
        (2**31, [2**31 - 1]),
        (2**30, [2**31 - 1, 2**30]),
        (2**25, [2**31 - 1, 2**30, 2**25]),
        (0, [2**31 - 1, 2**30, 2**25]),
    ],
)
def test_asks_for_the_largest_threshold_and_else_maps_nothing(monkeypatch, most, asked):
    calls = []

    class Library:
        @staticmethod
        def mallopt(parameter, value):
            calls.append((parameter, value))
            return int(parameter != memory.M_MMAP_THRESHOLD or value <= most)

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    assert keep_memory()
    assert [value for name, value in calls if name == memory.M_MMAP_THRESHOLD] == asked
    assert ((memory.M_MMAP_MAX, 0) in calls) == (most < 2**31 - 1)


@pytest.mark.usefixtures("silent", "unset")
def test_the_library_sets_nothing(tmp_path):
    train(train_config(tmp_path / "run", epochs=1))
