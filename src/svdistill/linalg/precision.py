"""Spectral arithmetic stays in full float32, whatever precision the network around it runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower becomes float32.

    Example:
        >>> working_dtype(torch.bfloat16), working_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off, and TF32 on CUDA, for the block.

    A Gram matrix squares the condition number, so ten bits of mantissa leave no second vector.
    """
    with torch.autocast(device.type, enabled=False):
        tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
        if not tf32:
            yield
            return
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = True
