"""What this process has of its machine: cores, threads, memory."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final


def available_cores() -> int:
    """The cores that this process is bound to, as many of them as its container may use.

    `os.cpu_count` counts the machine's.

    Example:
        >>> available_cores() >= 1
        True
    """
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return count


# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD: Final = -1

M_TOP_PAD: Final = -2

M_MMAP_THRESHOLD: Final = -3

# The largest int is best; some versions refuse it, older ones all above 32 MiB.
MMAP_THRESHOLDS: Final = (2**31 - 1, 2**30, 2**25)

TRIM_THRESHOLD: Final = 2**31 - 1

TOP_PAD: Final = 2**26

# With these the user has said already how glibc is to allocate.
ENVIRONMENT: Final = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, where the next step finds it.

    glibc gives a large block back to the kernel as soon as it is freed, and gets the next one page
    by page, each cleared first. A training step on a CPU allocates and frees the same hundreds of
    megabytes every time, and may spend half of its time so. The price: what the process has once
    used stays with it until it ends.

    It holds for the whole process, and is the business of whoever owns that: the command line calls
    this where it trains, no function of the library does.

    Returns:
        Whether it was set: neither where the C library is not glibc, nor where the environment has
        `GLIBC_TUNABLES` or one of the `MALLOC_` variables for this.

    Example:
        >>> keep_freed_memory()  # doctest: +SKIP
        True
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in ENVIRONMENT):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    thresholds = any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS)
    return bool(
        thresholds and mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD) and mallopt(M_TOP_PAD, TOP_PAD)
    )
