"""The seed's networks, their sizes, and what the seed's table says about them."""

from svdistill.networks.base import SeedNetwork
from svdistill.networks.info import NetworkDescription, StageRow, describe_network
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.published import PublishedSize, published_size
from svdistill.networks.registry import build_network, network_names

__all__ = [
    "NetworkDescription",
    "NetworkProfile",
    "PublishedSize",
    "SeedNetwork",
    "StageRow",
    "build_network",
    "describe_network",
    "network_names",
    "profile_network",
    "published_size",
]
