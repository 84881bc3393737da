"""Describe a network of the seed, part by part, next to what the seed's table says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svdistill.errors import require_count
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.published import PublishedSize, published_size
from svdistill.networks.registry import build_network

TABLE_SETTING = (100, 1.0, 32)  # classes, width and image side of the seed's table


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
        profile: cost of the whole network, with the four taps.
        stages: its parts in the order in which they run; their costs add up to the profile's.
        published: the table's row, or None for other classes, width or image than the table's.
    """

    name: str
    num_classes: int
    width: float
    image_size: int
    profile: NetworkProfile
    stages: tuple[StageRow, ...]
    published: PublishedSize | None


def describe_network(
    name: str, num_classes: int = 100, width: float = 1.0, image_size: int = 32
) -> NetworkDescription:
    """Describe one of the seed's networks without computing an image or drawing a weight.

    Args:
        name: one of `svdistill.networks.network_names`.
        num_classes: number of logits, at least 1.
        width: positive factor on the channels, as for `build_network`.
        image_size: side of the square image in pixels, at least 1.

    Returns:
        The description.

    Raises:
        ArgumentError: an argument is out of range or the name is unknown.

    Example:
        >>> description = describe_network("vgg_student")
        >>> [row.shape for row in description.stages]
        [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (100,)]
        >>> description.profile.flops, description.published.flops
        (121184256, 121300000)
    """
    require_count("image_size", image_size)
    with torch.device("meta"):
        network = build_network(name, num_classes, width)
    parts = dict(network.named_children())
    image_shape = (3, image_size, image_size)
    shapes = dict(profile_network(network, image_shape, tuple(parts)).taps)

    rows = []
    input_shape: tuple[int, ...] = image_shape
    for path, part in parts.items():
        cost = profile_network(part, input_shape)
        input_shape = shapes[path]
        is_tap = path in network.tap_paths
        rows.append(StageRow(path, input_shape, cost.parameters, cost.flops, is_tap))

    in_table = (num_classes, width, image_size) == TABLE_SETTING
    return NetworkDescription(
        name=name,
        num_classes=num_classes,
        width=width,
        image_size=image_size,
        profile=profile_network(network, image_shape, network.tap_paths),
        stages=tuple(rows),
        published=published_size(name) if in_table else None,
    )
