"""How much memory a computation needs at most, above what was there before."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

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
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_measure, compute, make, torch.get_num_threads()).result()


def _measure(compute: Callable[[Any], object], make: Callable[[], Any], threads: int) -> int:
    torch.set_num_threads(threads)
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
