"""The process on its machine: cores, launched processes, and how glibc allocates memory."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from typing import Final

# Set by torchrun and SLURM's wrappers of it, then by MPI's launchers.
SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS: Final = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
M_MMAP_MAX: Final = -4

LARGEST: Final = 2**31 - 1
TOP_PAD: Final = 2**26

# glibc before 2.35 refuses an mmap threshold above 32 MiB.
MMAP_THRESHOLDS: Final = (LARGEST, 2**30, 2**25)

# If one of these is set, the user has configured glibc's allocator already.
ENVIRONMENT: Final = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)

ALLOCATORS: Final = ("jemalloc", "tcmalloc", "mimalloc")


def available_cores() -> int:
    """Number of cores that this process may use, by its affinity and its container's limit.

    Example:
        >>> available_cores() >= 1
        True
    """
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return count


def launched_size() -> int:
    """Number of processes that a launcher started; 1 without a launcher."""
    return _number(SIZES, 1)


def launched_rank() -> int:
    """Rank of this process among the launched ones; 0 without a launcher."""
    return _number(RANKS, 0) if launched_size() > 1 else 0


def _number(variables: Sequence[str], default: int) -> int:
    """The value of the first of these environment variables that is set to an integer."""
    texts = (os.environ.get(variable, "") for variable in variables)
    return next((int(text) for text in texts if text.isdecimal()), default)


def keep_memory() -> bool:
    """Make glibc keep freed memory in the process, where the next step reuses it.

    By default glibc returns each large block to the kernel when it is freed, and the kernel clears
    every page of the next one. A training step on a CPU allocates and frees the same hundreds of
    megabytes each time, and can spend half of its time on these page faults. With this setting the
    process keeps its peak memory until it ends.

    It holds for the whole process, so no function of the library calls it. The commands that train
    do, unless `--keep_memory false` is given; call it once at the start of your own script.

    Returns:
        True if the allocator was set. False, with nothing changed, if the C library is not glibc,
        if another allocator is preloaded by `LD_PRELOAD`, or if `GLIBC_TUNABLES` or a `MALLOC_`
        variable configures it.

    Example:
        >>> keep_memory()  # doctest: +SKIP
        True
    """
    preloaded = os.environ.get("LD_PRELOAD", "")
    if (
        platform.libc_ver()[0] != "glibc"
        or any(name in os.environ for name in ENVIRONMENT)
        or any(name in preloaded for name in ALLOCATORS)
    ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    threshold = next((size for size in MMAP_THRESHOLDS if mallopt(M_MMAP_THRESHOLD, size)), 0)
    # Blocks above a lower threshold stay on the heap only if none may be mapped.
    kept = threshold == LARGEST or mallopt(M_MMAP_MAX, 0)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, LARGEST) and mallopt(M_TOP_PAD, TOP_PAD))
