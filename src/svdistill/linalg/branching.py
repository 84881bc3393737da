"""Whether Python may look at a tensor's value, and so choose what to compute next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd import forward_ad

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


def is_transformed() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp) or forward mode is active."""
    return _in_functorch() or forward_ad._current_level >= 0


def _in_functorch() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


def is_traced() -> bool:
    """Whether operations are recorded instead of run: by torch.compile, export or make_fx."""
    if torch.compiler.is_compiling():
        return True
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY))


def may_branch(device: torch.device) -> bool:
    """False where a step is traced, transformed or captured: there the kernels must be fixed.

    Elsewhere a solver may stop when it has converged, and compute again what has not.
    """
    return not is_traced() and not _in_functorch() and not is_captured(device)
