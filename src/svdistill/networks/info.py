"""Describe a network part by part, beside the paper's counts; `svdistill info` prints it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from svdistill.common import as_logits, require_choice, require_count
from svdistill.networks.paper import PaperNetwork
from svdistill.networks.profile import Cost, NetworkProfile, profile_network, stage_costs
from svdistill.networks.registry import (
    SkipInitialisation,
    build_network,
    input_spec,
    is_code,
    network_names,
    on_meta_device,
    pretrained_classes,
)
from svdistill.taps import dry_run, find_stages


@dataclass(frozen=True)
class PublishedSize:
    """One row of the paper's table: 100 classes, 32 x 32 images.

    Attributes:
        flops: the printed FLOPs.
        parameters: the printed number of parameters.
        deviation: how the counts of the network differ from the printed ones; empty if they agree.
    """

    flops: int
    parameters: int
    deviation: str = ""


_TABLE = {
    "vgg_teacher": PublishedSize(576_300_000, 10_900_000),
    "vgg_student": PublishedSize(
        121_300_000, 3_800_000, "121.2M FLOPs counted: the table says 0.1 % more"
    ),
    "vgg_stride_student": PublishedSize(
        15_600_000,
        3_800_000,
        "33.6M FLOPs counted, 16.8M multiply-adds: neither is what the table says",
    ),
    "mobilenet_teacher": PublishedSize(
        98_400_000,
        2_300_000,
        "175.8M FLOPs counted: the table is nearer to the 87.9M multiply-adds; 2.21M parameters",
    ),
    "mobilenet_student": PublishedSize(
        37_800_000,
        820_000,
        "73.1M FLOPs counted: the table is nearer to the 36.5M multiply-adds",
    ),
    "resnext_teacher": PublishedSize(
        547_300_000,
        660_000,
        "542.6M FLOPs and 0.65M parameters counted with the 4 branches that come nearest; "
        "the 8 branches of the drawing count to 1081.5M and 1.28M",
    ),
    "resnext_student": PublishedSize(
        247_600_000,
        340_000,
        "273.1M FLOPs counted with the 2 branches that give the table's parameters",
    ),
}


def published_size(name: str) -> PublishedSize:
    """Look up a network, one of `network_names`, in the paper's table.

    Raises:
        ArgumentError: the name is unknown.

    Example:
        >>> published_size("vgg_teacher").parameters
        10900000

    Source:
        Lee, Kim, Song, ECCV 2018, the table of networks.
    """
    require_choice("name", name, _TABLE)
    return _TABLE[name]


TABLE_SETTING = (100, 1.0, 32)  # classes, width and image side of the paper's table

SMALL_SIDE = 64  # up to this side, a forward pass is cheaper than importing torch's compiler


@dataclass(frozen=True)
class StageRow:
    """One part of a network: its path, the shape of its output without the batch, its cost."""

    path: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    is_tap: bool


@dataclass(frozen=True)
class NetworkDescription:
    """A network as a whole, part by part, and its row in the paper's table.

    Attributes:
        name: its name for `build_network`.
        num_classes: number of logits.
        width: factor on its channels.
        image_size: side of the image in pixels.
        profile: cost of the whole network, with its taps.
        stages: its parts in the order in which they run; their costs add up to the profile's. For
            a network of another library, its stages, which can be tapped, and last the rest.
        published: the row of the table; None for other networks, classes, widths or image sizes.
    """

    name: str
    num_classes: int
    width: float
    image_size: int
    profile: NetworkProfile
    stages: tuple[StageRow, ...]
    published: PublishedSize | None


def describe_network(
    name: str,
    num_classes: int | None = None,
    width: float = 1.0,
    image_size: int | None = None,
) -> NetworkDescription:
    """Describe a network without drawing its weights.

    Args:
        name: as for `build_network`.
        num_classes: number of logits, at least 1; None for those of its published weights, or 100.
        width: positive factor on the channels, as for `build_network`.
        image_size: side of the square image in pixels, at least 1; None for that of its published
            weights, or 32.

    Returns:
        The description.

    Raises:
        ArgumentError: an argument is out of range, the name is unknown or its package missing.

    Example:
        >>> description = describe_network("vgg_student")
        >>> [row.shape for row in description.stages]
        [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (100,)]
        >>> description.profile.flops, description.published.flops
        (121184256, 121300000)
    """
    if num_classes is None:
        num_classes = pretrained_classes(name) or TABLE_SETTING[0]
    if image_size is None:
        spec = input_spec(name)
        image_size = TABLE_SETTING[2] if spec is None else spec.image_size
    require_count("image_size", image_size)
    network = _build(name, num_classes, width, image_size)
    if isinstance(network, PaperNetwork):
        parts, taps = tuple(dict(network.named_children())), network.tap_paths
    else:
        parts = taps = _stages(network, image_size)
    profile = profile_network(network, (3, image_size, image_size), parts)
    in_table = name in _TABLE and (num_classes, width, image_size) == TABLE_SETTING
    return NetworkDescription(
        name=name,
        num_classes=num_classes,
        width=width,
        image_size=image_size,
        profile=replace(profile, taps=tuple(tap for tap in profile.taps if tap[0] in taps)),
        stages=tuple(_rows(network, profile, taps, image_size)),
        published=published_size(name) if in_table else None,
    )


def _build(name: str, num_classes: int, width: float, image_size: int) -> nn.Module:
    """Build a network in evaluation mode, on torch's meta device if possible."""

    def build() -> nn.Module:
        return build_network(name, num_classes, width, image_size=image_size).eval()

    if name in network_names() and width <= 1 and image_size <= SMALL_SIDE:
        # On the meta device torch would import its compiler, which takes seconds.
        with SkipInitialisation():
            return build()
    if not is_code(name):
        try:
            with on_meta_device():
                return build()
        except NotImplementedError:  # some compute with tensors while they are built
            pass
    with torch.random.fork_rng(devices=[]):
        return build()


def _stages(network: nn.Module, image_size: int) -> tuple[str, ...]:
    """The modules of another library's network that can be tapped."""
    sides = (image_size, image_size)
    found = find_stages(dry_run("name", network, torch.zeros(2, 3, *sides)), sides)
    return tuple(stage.stage.path for stage in found.stages)


def _rows(
    network: nn.Module, profile: NetworkProfile, taps: tuple[str, ...], image_size: int
) -> list[StageRow]:
    """One row for each part of the profile, and one for what runs after the last."""
    weight = next(network.parameters(), torch.empty(0))
    shape = (1, 3, image_size, image_size)
    image = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    *costs, rest = stage_costs(network, image, [path for path, _ in profile.taps])
    rows = [
        StageRow(path, output, cost.parameters, cost.flops, path in taps)
        for (path, output), cost in zip(profile.taps, costs, strict=True)
    ]
    if rest != Cost(0, 0):
        with torch.no_grad():
            logits = as_logits(network(image))
        rows.append(StageRow("(rest)", tuple(logits.shape[1:]), rest.parameters, rest.flops, False))
    return rows
