"""The machine that a measurement is of, and the memory that it takes."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from svdistill.common import available_cores
from svdistill.runs import environment

Result = TypeVar("Result")


def machine() -> dict[str, Any]:
    """A run's environment, and what speed depends on besides.

    Example:
        >>> machine()["threads"] == torch.get_num_threads()
        True
    """
    return {
        **environment(),
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "torchdistill": installed_version("torchdistill"),
        "date": datetime.now(UTC).date().isoformat(),
        # Of the last minute, this process included: more than its threads is a busy machine.
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def installed_version(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


STATUS = Path("/proc/self/status")

CLEAR = Path("/proc/self/clear_refs")


def peak_memory(compute: Callable[[Any], object], make: Callable[[], Any]) -> int:
    """Bytes that ``compute(make())`` needs at its peak, above those before it.

    On the CPU a fresh process does it, and its peak of resident memory counts; on CUDA, what
    torch's allocator gave out. Memory that the system lends in pages or that an allocator keeps is
    in it, so small computations look a little bigger than they are.

    Args:
        compute: takes what `make` returned. Both can be pickled.
        make: makes the inputs, tensors of one device.
    """
    return in_process(partial(_measure, compute, make))


def in_process(work: Callable[[], Result]) -> Result:
    """The result of some work in a fresh process, with as many threads as this one."""
    pool = ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    )
    with pool:
        return pool.submit(work).result()


def _measure(compute: Callable[[Any], object], make: Callable[[], Any]) -> int:
    inputs = make()
    if inputs[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        compute(inputs)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _forget_peak()
    before = _peak_resident()
    compute(inputs)
    return _peak_resident() - before


def _forget_peak() -> None:
    """Let the peak start from what the process holds now, where the system (Linux) can."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def _peak_resident() -> int:
    """The most memory that this process has held."""
    if STATUS.exists():
        # Not getrusage, which starts a new process with the peak of the one that started it.
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
