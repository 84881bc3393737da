"""Networks by name: the seed's, other libraries', your own; what they cost, what they take."""

from svdistill.networks.base import SeedNetwork
from svdistill.networks.info import NetworkDescription, StageRow, describe_network
from svdistill.networks.input_spec import InputSpec
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.published import PublishedSize, published_size
from svdistill.networks.registry import (
    build_network,
    build_seed_network,
    input_spec,
    is_code,
    is_zoo,
    network_names,
    pretrained_classes,
    require_network,
    require_width,
)

__all__ = [
    "InputSpec",
    "NetworkDescription",
    "NetworkProfile",
    "PublishedSize",
    "SeedNetwork",
    "StageRow",
    "build_network",
    "build_seed_network",
    "describe_network",
    "input_spec",
    "is_code",
    "is_zoo",
    "network_names",
    "pretrained_classes",
    "profile_network",
    "published_size",
    "require_network",
    "require_width",
]
