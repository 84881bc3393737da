"""Whether Python may look at a tensor's value, and so choose what to compute next."""

from __future__ import annotations

import torch


def may_branch(device: torch.device) -> bool:
    """False where a step is traced or captured: there one fixed sequence of kernels must do.

    Elsewhere a solver may stop when it has converged, and compute again what has not.
    """
    if torch.compiler.is_compiling():
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
