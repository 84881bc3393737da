"""Runs that are the same bit by bit: what torch is told for it, and what must have been told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from svdistill.errors import ArgumentError, TrainingError

VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES: Final = (":4096:8", ":16:8")


def require_workspace(device: torch.device) -> None:
    """Raise `ArgumentError` where cuBLAS was left free to add up in any order.

    It reads its setting once, before any code of ours may have run.
    """
    if device.type == "cuda" and os.environ.get(VARIABLE) not in WORKSPACES:
        raise ArgumentError(
            "deterministic",
            expected=f"{VARIABLE} to be {' or '.join(WORKSPACES)}, for a GPU",
            got=repr(os.environ.get(VARIABLE, "")),
            remedy=f"start it as `{VARIABLE}={WORKSPACES[0]} svdistill ...`",
        )


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch run deterministic algorithms only; afterwards it does again as it did before.

    Args:
        wanted: where not, nothing is changed.

    Raises:
        TrainingError: an operation has none.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            "deterministic",
            expected="operations that have a deterministic form on this device",
            got=" ".join(str(error).split())[:150],
            remedy="leave --deterministic out, or use another loss or network",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before[1:]
