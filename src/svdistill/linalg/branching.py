"""Whether Python may look at a tensor's value, and so choose what to compute next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_rehearsals: list[object] = []


@contextmanager
def rehearsal() -> Iterator[None]:
    """On CUDA, let the block run the very kernels that a captured step will."""
    _rehearsals.append(None)
    try:
        yield
    finally:
        _rehearsals.pop()


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is recording: nothing may wait for the device, not even a status."""
    if device.type != "cuda":
        return False
    return bool(_rehearsals) or torch.cuda.is_current_stream_capturing()


def may_branch(device: torch.device) -> bool:
    """False where a step is traced or captured: there one fixed sequence of kernels must do.

    Elsewhere a solver may stop when it has converged, and compute again what has not.
    """
    return not torch.compiler.is_compiling() and not is_captured(device)
