"""What every row of a benchmark works on: a teacher, a student and one batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from svdistill.common import ArgumentError, require_count
from svdistill.data import Augmentation, load_images
from svdistill.networks import PaperNetwork, build_paper_network
from svdistill.runs import WeightsCard
from svdistill.taps import TapPairs
from svdistill.training import place_network

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
        images: [B, 3, 32, 32], normalised.
        labels: [B].
    """

    teacher: PaperNetwork
    student: PaperNetwork
    images: Tensor
    labels: Tensor

    @property
    def taps(self) -> TapPairs:
        """The paper's four taps of both."""
        return TapPairs(self.teacher.tap_paths, self.student.tap_paths)

    def new_student(self) -> PaperNetwork:
        """A copy of the student."""
        return copy.deepcopy(self.student)


def new_workload(
    pair: str,
    *,
    batch_size: int,
    device: torch.device,
    width: float = 1.0,
    data: str | None = None,
    image_size: int = IMAGE_SIZE,
) -> Workload:
    """Build a pair of the paper's networks, freshly initialised, and a batch; always the same.

    Args:
        pair: a key of `PAIRS`.
        batch_size: images, at least 1.
        device: where everything goes.
        width: factor on the networks' channels.
        data: whose test images, see `load_images`; noise if not given.
        image_size: their side in pixels.

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
        teacher, student = (build_paper_network(name, NUM_CLASSES, width) for name in PAIRS[pair])
        noise = torch.randn(batch_size, 3, image_size, image_size)
        labels = torch.randint(NUM_CLASSES, (batch_size,))
    for network in (teacher, student):
        place_network(network, device)
    images = noise if data is None else pictures(data, batch_size, image_size=image_size)
    return Workload(
        teacher.requires_grad_(False).eval(),
        student.train(),
        images.to(device, memory_format=torch.channels_last),
        labels.to(device),
    )


def pictures(
    data: str, batch_size: int, card: WeightsCard | None = None, image_size: int = IMAGE_SIZE
) -> Tensor:
    """Test images [B, 3, H, W], normalised as a card's network knows them.

    Args:
        data: whose, see `load_images`.
        batch_size: how many.
        card: of the network that they are for; None for the data's own statistics.
        image_size: their side in pixels.

    Raises:
        ArgumentError: there are not so many.
        DataError: the images cannot be read.
    """
    images = load_images(data, image_size=image_size)
    if len(images.test) < batch_size:
        raise ArgumentError(
            "batch_size",
            expected=f"at most the {len(images.test)} test images of {data}",
            got=batch_size,
            remedy="choose a smaller batch",
        )
    mean, std = (images.mean, images.std) if card is None else (card.mean, card.std)
    batch = next(images.test.batches(batch_size, device="cpu", order_seed=0))
    return Augmentation("none", image_size, mean, std).normalise(batch.images)


def name_of(data: str | None) -> str:
    """What images a result was measured on, without the folder that they lie in.

    Example:
        >>> name_of(None), name_of("parquet:/data/cifar100"), name_of("digits")
        ('noise', 'parquet:cifar100', 'digits')
    """
    if data is None:
        return "noise"
    kind, colon, place = data.partition(":")
    return kind + colon + Path(place).name


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
