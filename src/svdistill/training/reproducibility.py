"""Seeds, deterministic algorithms, and processes that start alike."""

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
    """A seed in [0, 2^63), derived from its purpose.

    A resumed run derives the seeds of its next epoch, so that no generator's state is stored.

    Args:
        parts: e.g. the run's seed, a purpose and an epoch.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
        True
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"

WORKSPACES: Final = (":4096:8", ":16:8")


def require_workspace(device: torch.device) -> None:
    """Raise `ArgumentError` unless cuBLAS is set to add up in a fixed order.

    cuBLAS reads the environment variable once, when the process starts to use it.
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
    """Use deterministic algorithms only while the block lasts, if that is wanted.

    Raises:
        TrainingError: an operation has no deterministic form.
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
    """Compare the setup of all processes, then broadcast the main process's initial weights.

    `contents` are fingerprints of the images and of the teacher or the knowledge store.

    Raises:
        RunError: in every process, if something differs in one.
    """
    if not is_grouped():
        return
    options = {name: value for name, value in asdict(config).items() if name != "workers"}
    versions = {name: version(name) for name in ("svdistill", "torch")}
    require_alike({**versions, **options, **contents})
    trained = (parameter for step in steps for parameter in step.parameters())
    broadcast({id(t): t for t in (*student.parameters(), *student.buffers(), *trained)}.values())
