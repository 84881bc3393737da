"""Derive seeds, use deterministic algorithms, and give all processes the same start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

import torch
from torch import nn

from svdistill.common import ArgumentError, TrainingError
from svdistill.config import TrainConfig
from svdistill.parallel import broadcast, is_grouped, require_alike
from svdistill.training.step import Step


def derive_seed(*parts: int | str) -> int:
    """Derive a seed in [0, 2^63) from what it is used for.

    A run resumed between epochs derives the same seeds again, so no generator state is stored.

    Args:
        parts: what the seed depends on, e.g. the run's seed, a purpose and an epoch.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
        True
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"

WORKSPACES: Final = (":4096:8", ":16:8")


def require_workspace(device: torch.device) -> None:
    """Raise `ArgumentError` unless an environment variable makes cuBLAS deterministic on a GPU.

    cuBLAS reads `CUBLAS_WORKSPACE_CONFIG` only once, so the user must set it before the start.
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
    """Return a context that uses deterministic algorithms if `wanted`, and then restores settings.

    Raises:
        TrainingError: an operation in the block has no deterministic implementation.
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


def require_same_setup(
    config: TrainConfig,
    student: nn.Module,
    steps: Sequence[Step],
    contents: dict[str, str],
) -> None:
    """Check that all processes have the same setup, then copy the main process's weights to all.

    `contents` holds fingerprints of the images and of the teacher or the knowledge store.

    Raises:
        RunError: options, versions or contents differ; every process raises it.
    """
    if not is_grouped():
        return
    options = {name: value for name, value in asdict(config).items() if name != "workers"}
    versions = {name: version(name) for name in ("svdistill", "torch")}
    require_alike({**versions, **options, **contents})
    trained = (parameter for step in steps for parameter in step.parameters())
    broadcast({id(t): t for t in (*student.parameters(), *student.buffers(), *trained)}.values())
