"""Build networks by name and count what they cost.

`build_network` in `registry.py` is the way in: a name leads to `paper.py`, to one of the model
libraries (`timm_models.py`, `torchvision_models.py`, `transformers_models.py`, whose interface is
`zoo.py`), or to the user's code. `profile.py` counts parameters and FLOPs; `info.py` describes a
network beside the paper's table.
"""

from svdistill.networks.info import (
    NetworkDescription,
    PublishedSize,
    StageRow,
    describe_network,
    published_size,
)
from svdistill.networks.paper import PaperNetwork
from svdistill.networks.profile import NetworkProfile, profile_network
from svdistill.networks.registry import (
    build_network,
    build_paper_network,
    import_network,
    input_spec,
    is_code,
    is_zoo,
    network_names,
    on_meta_device,
    pretrained_classes,
    require_network,
    require_width,
)
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.networks.transformers_models import (
    build_transformers_network,
    is_transformers_network,
    load_transformers_weights,
    transformers_config,
)
from svdistill.networks.zoo import InputSpec

__all__ = [
    "InputSpec",
    "NetworkDescription",
    "NetworkProfile",
    "PaperNetwork",
    "PublishedSize",
    "StageRow",
    "build_network",
    "build_paper_network",
    "build_transformers_network",
    "describe_network",
    "import_network",
    "input_spec",
    "is_code",
    "is_transformers_network",
    "is_zoo",
    "load_transformers_weights",
    "network_names",
    "on_meta_device",
    "prepare_torchvision",
    "pretrained_classes",
    "profile_network",
    "published_size",
    "require_network",
    "require_width",
    "transformers_config",
]
