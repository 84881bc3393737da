"""Networks by name: the paper's, other libraries', your own; what they cost, what they take."""

from svdistill.networks.info import (
    NetworkDescription,
    PublishedSize,
    StageRow,
    describe_network,
    published_size,
)
from svdistill.networks.own_code import import_network
from svdistill.networks.paper import PaperNetwork, without_memory
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.registry import (
    build_network,
    build_paper_network,
    input_spec,
    is_code,
    is_zoo,
    network_names,
    pretrained_classes,
    require_network,
    require_width,
)
from svdistill.networks.transformers_models import (
    build_from_config,
    config_text,
    fill,
    is_of_transformers,
)
from svdistill.networks.zoo import InputSpec

__all__ = [
    "InputSpec",
    "NetworkDescription",
    "NetworkProfile",
    "PaperNetwork",
    "PublishedSize",
    "StageRow",
    "build_from_config",
    "build_network",
    "build_paper_network",
    "config_text",
    "describe_network",
    "fill",
    "import_network",
    "input_spec",
    "is_code",
    "is_of_transformers",
    "is_zoo",
    "network_names",
    "pretrained_classes",
    "profile_network",
    "published_size",
    "require_network",
    "require_width",
    "without_memory",
]
