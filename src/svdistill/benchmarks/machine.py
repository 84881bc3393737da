"""Where and with what something was measured."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from svdistill.cores import available_cores
from svdistill.training.run_directory import environment


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
