"""Processes that train together have the same options, images and networks, or do not begin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

import torch
from torch import nn

from svdistill.parallel import broadcast, is_grouped, is_sharded, require_alike
from svdistill.training.config import TrainConfig
from svdistill.training.step import Step

OWN: Final = ("workers",)  # options that each process may have another value of


def begin_alike(
    config: TrainConfig,
    student: nn.Module,
    steps: Sequence[Step],
    teacher: nn.Module | None,
    contents: dict[str, str],
) -> None:
    """Give all processes the main one's initial weights, once nothing else differs.

    Args:
        config: what was asked of this process.
        student: to be trained.
        steps: that train it, and what they train beside it.
        teacher: compared, not sent: it may be large.
        contents: fingerprints of what names stand for, such as the images.

    Raises:
        RunError: in every process, if something differs in one.
    """
    if not is_grouped():
        return
    options = {name: value for name, value in asdict(config).items() if name not in OWN}
    versions = {name: version(name) for name in ("svdistill", "torch")}
    told = {} if teacher is None else {"teacher's weights": fingerprint(teacher)}
    require_alike({**versions, **options, **contents, **told})
    trained = (parameter for step in steps for parameter in step.parameters())
    broadcast({id(t): t for t in (*student.parameters(), *student.buffers(), *trained)}.values())


def fingerprint(network: nn.Module) -> str:
    """A short text that hardly another network has: names, shapes, and sums of all weights.

    Sums, not bytes: seconds for a network of gigabytes. Weights that are sharded have none.

    Example:
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total = 0.0 if is_sharded(tensor) else float(tensor.sum(dtype=torch.float64))
        digest.update(f"{name} {tuple(tensor.shape)} {total!r}\n".encode())
    return digest.hexdigest()[:16]
