"""What the seed's table says about each network, and where our count differs."""

from __future__ import annotations

from dataclasses import dataclass

from svdistill.errors import require_choice


@dataclass(frozen=True)
class PublishedSize:
    """One row of the seed's table: 100 classes, 32 x 32 images.

    Attributes:
        flops: the printed FLOPs.
        parameters: the printed parameters.
        deviation: where a count of the network differs from what is printed, empty if nowhere.
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
    """Look up what the seed's table says about a network.

    Args:
        name: one of `svdistill.networks.network_names`.

    Returns:
        The table's row.

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
