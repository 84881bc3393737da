"""Describe a network, part by part, and one of the seed next to what the seed's table says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from svdistill.errors import require_count
from svdistill.logits import as_logits
from svdistill.networks.base import SeedNetwork, Undrawn, without_memory
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.published import PublishedSize, published_size
from svdistill.networks.registry import (
    build_network,
    input_spec,
    is_code,
    network_names,
    pretrained_classes,
)
from svdistill.networks.stage_costs import Cost, stage_costs
from svdistill.taps.dry_run import dry_run
from svdistill.taps.stages import find_stages

TABLE_SETTING = (100, 1.0, 32)  # classes, width and image side of the seed's table
SMALL_SIDE = 64  # images up to this side are computed, not only their shapes


@dataclass(frozen=True)
class StageRow:
    """One part of a network: its path, its output's shape without the batch, what it costs."""

    path: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    is_tap: bool


@dataclass(frozen=True)
class NetworkDescription:
    """A network as a whole, part by part, and as the seed's table has it.

    Attributes:
        name: its name for `build_network`.
        num_classes: number of logits.
        width: factor on its channels.
        image_size: side of the image in pixels.
        profile: cost of the whole network, with its taps.
        stages: its parts in the order in which they run; their costs add up to the profile's. Of a
            network of another library, its stages, which may be tapped, and last all the rest.
        published: the table's row, or None for other networks, classes, width or image.
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
    """Describe a network; without drawing a weight, and as a rule without computing an image.

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
    seed = isinstance(network, SeedNetwork)
    taps = network.tap_paths if isinstance(network, SeedNetwork) else _stages(network, image_size)
    parts = tuple(dict(network.named_children())) if seed else taps
    shape = (3, image_size, image_size)
    rows = _rows(network, parts, taps, shape)
    in_table = seed and (num_classes, width, image_size) == TABLE_SETTING
    return NetworkDescription(
        name=name,
        num_classes=num_classes,
        width=width,
        image_size=image_size,
        profile=profile_network(network, shape, taps),
        stages=tuple(rows),
        published=published_size(name) if in_table else None,
    )


def _build(name: str, num_classes: int, width: float, image_size: int) -> nn.Module:
    """The network on torch's meta device where it can be, in evaluation mode."""

    def build() -> nn.Module:
        return build_network(name, num_classes, width, image_size=image_size).eval()

    if name in network_names() and width <= 1 and image_size <= SMALL_SIDE:
        # Milliseconds; on the meta device torch imports its compiler first, which takes seconds.
        with Undrawn():
            return build()
    if not is_code(name):
        try:
            with without_memory():
                return build()
        except NotImplementedError:  # some compute their own shape while they are built
            pass
    with torch.random.fork_rng(devices=[]):
        return build()


def _stages(network: nn.Module, image_size: int) -> tuple[str, ...]:
    """The modules of another library's network that may be tapped."""
    sides = (image_size, image_size)
    found = find_stages(dry_run("name", network, torch.zeros(2, 3, *sides)), sides)
    return tuple(stage.stage.path for stage in found.stages)


def _rows(
    network: nn.Module, parts: tuple[str, ...], taps: tuple[str, ...], shape: tuple[int, ...]
) -> list[StageRow]:
    """A row for each part, and one for what comes behind the last."""
    weight = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    *costs, rest = stage_costs(network, image, parts)
    shapes = profile_network(network, shape, parts).taps
    rows = [
        StageRow(path, output, cost.parameters, cost.flops, path in taps)
        for (path, output), cost in zip(shapes, costs, strict=True)
    ]
    if rest != Cost(0, 0):
        with torch.no_grad():
            logits = as_logits(network(image))
        rows.append(StageRow("(rest)", tuple(logits.shape[1:]), rest.parameters, rest.flops, False))
    return rows
