"""Losses of torchdistill on the paper's taps, where the extra `peers` is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from svdistill.taps import Recording
from svdistill_benchmarks.machine import installed_version

LOGITS = "logits"

HOW_TO_INSTALL = (
    "torchdistill's rows are left out; to have them, `pip install --no-deps torchdistill` "
    "(without --no-deps also torchvision, which a CPU build of torch cannot import)"
)


Outputs = dict[str, dict[str, Tensor]]


class Peer(NamedTuple):
    """A way to teach that is not ours: the whole loss of student, teacher and labels."""

    name: str
    loss: Callable[[Recording, Recording, Tensor], Tensor]


def torchdistill_peers(num_taps: int) -> list[Peer]:
    """Soft target, attention transfer and FSP by torchdistill, each with the cross-entropy.

    Args:
        num_taps: features that are recorded of each network.

    Returns:
        Nothing where torchdistill is not installed.

    Example:
        >>> len(torchdistill_peers(4)) in (0, 3)
        True

    Source: torchdistill, https://github.com/yoshitomo-matsubara/torchdistill, `mid_level.py`.
    """
    release = installed_version("torchdistill")
    if release is None:
        return []
    # By name, since the losses alone are wanted: the package's other modules import torchvision.
    losses = importlib.import_module("torchdistill.losses.mid_level")
    taps = [_output(f"tap{place}") for place in range(num_taps)]
    soft_target = losses.KDLoss(LOGITS, "output", LOGITS, "output", temperature=4.0, alpha=0.1)
    attention = losses.ATLoss(
        {str(place): {"teacher": tap, "student": tap} for place, tap in enumerate(taps)}
    )
    fsp = losses.FSPLoss({str(place): _pair(*pair) for place, pair in enumerate(pairwise(taps))})
    return [
        Peer(f"torchdistill {release} soft target", _whole(soft_target)),
        Peer(f"torchdistill {release} attention", _with_cross_entropy(attention)),
        Peer(f"torchdistill {release} FSP", _with_cross_entropy(fsp)),
    ]


def _whole(criterion: Callable[..., Tensor]) -> Callable[[Recording, Recording, Tensor], Tensor]:
    """A criterion that adds the cross-entropy itself."""

    def loss(student: Recording, teacher: Recording, labels: Tensor) -> Tensor:
        return criterion(_outputs(student), _outputs(teacher), labels)

    return loss


def _with_cross_entropy(
    criterion: Callable[..., Tensor],
) -> Callable[[Recording, Recording, Tensor], Tensor]:
    transfer = _whole(criterion)

    def loss(student: Recording, teacher: Recording, labels: Tensor) -> Tensor:
        return F.cross_entropy(student.output, labels) + transfer(student, teacher, labels)

    return loss


def _outputs(recording: Recording) -> Outputs:
    """What torchdistill's own hooks would have gathered."""
    features: Sequence[Tensor] = recording.features
    outputs = {f"tap{place}": {"output": feature} for place, feature in enumerate(features)}
    return {**outputs, LOGITS: {"output": recording.output}}


def _output(path: str) -> dict[str, str]:
    return {"io": "output", "path": path}


def _pair(first: dict[str, str], second: dict[str, str]) -> dict[str, Any]:
    return {
        "teacher_first": first,
        "teacher_second": second,
        "student_first": first,
        "student_second": second,
    }
