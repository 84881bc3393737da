"""What every row of a benchmark works on: a teacher, a student and one batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from svdistill.errors import ArgumentError, require_count
from svdistill.networks import SeedNetwork, build_network
from svdistill.taps import TapPairs
from svdistill.training.assembly import place_network

PAIRS: Final = {
    "vgg": ("vgg_teacher", "vgg_student"),
    "mobilenet": ("mobilenet_teacher", "mobilenet_student"),
}
NUM_CLASSES: Final = 100
IMAGE_SIZE: Final = 32


@dataclass(frozen=True)
class Workload:
    """Networks and images, all laid out channels last.

    Attributes:
        teacher: frozen, in eval mode.
        student: in training mode; every row trains a copy of its own.
        images: [B, 3, 32, 32], noise.
        labels: [B].
    """

    teacher: SeedNetwork
    student: SeedNetwork
    images: Tensor
    labels: Tensor

    @property
    def taps(self) -> TapPairs:
        """The seed's four taps of both."""
        return TapPairs(self.teacher.tap_paths, self.student.tap_paths)

    def new_student(self) -> SeedNetwork:
        """A copy of the student."""
        return copy.deepcopy(self.student)


def new_workload(
    pair: str, *, batch_size: int, device: torch.device, width: float = 1.0
) -> Workload:
    """Build a pair of the seed's networks, freshly initialised, and a batch; always the same.

    Args:
        pair: a key of `PAIRS`.
        batch_size: images, at least 1.
        device: where everything goes.
        width: factor on the networks' channels.

    Example:
        >>> workload = new_workload(
        ...     "vgg", batch_size=4, device=torch.device("cpu"), width=0.125
        ... )
        >>> workload.student(workload.images).shape
        torch.Size([4, 100])
    """
    require_count("batch_size", batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, student = (build_network(name, NUM_CLASSES, width) for name in PAIRS[pair])
        images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
        labels = torch.randint(NUM_CLASSES, (batch_size,))
    for network in (teacher, student):
        place_network(network, device)
    return Workload(
        teacher.requires_grad_(False).eval(),
        student.train(),
        images.to(device, memory_format=torch.channels_last),
        labels.to(device),
    )


def chosen_pairs(network: str) -> tuple[str, ...]:
    """The pairs that an option means.

    Raises:
        ArgumentError: it means none.

    Example:
        >>> chosen_pairs("all")
        ('vgg', 'mobilenet')
    """
    if network == "all":
        return tuple(PAIRS)
    if network in PAIRS:
        return (network,)
    raise ArgumentError(
        "network",
        expected="'vgg', 'mobilenet' or 'all'",
        got=repr(network),
        remedy="choose one of these",
    )
