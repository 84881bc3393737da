"""Build networks by name, and count their parameters and FLOPs.

The entry point is `build_network` in `registry.py`. It takes a network from `paper.py`, from one of
the model libraries (through `timm_models.py`, `torchvision_models.py` or `transformers_models.py`,
whose common interface is in `zoo.py`), or from the user's code. `profile.py` counts parameters and
FLOPs.
"""

from svdistill.networks.paper import PaperNetwork as PaperNetwork
from svdistill.networks.profile import (
    NetworkDescription as NetworkDescription,
    describe_network as describe_network,
    profile_network as profile_network,
    published_size as published_size,
)
from svdistill.networks.registry import (
    build_network as build_network,
    build_paper_network as build_paper_network,
    import_network as import_network,
    input_spec as input_spec,
    is_code as is_code,
    is_zoo as is_zoo,
    network_names as network_names,
    on_meta_device as on_meta_device,
    pretrained_classes as pretrained_classes,
    require_network as require_network,
    require_width as require_width,
)
from svdistill.networks.torchvision_models import prepare_torchvision as prepare_torchvision
from svdistill.networks.transformers_models import (
    build_transformers_network as build_transformers_network,
    is_transformers_network as is_transformers_network,
    load_transformers_weights as load_transformers_weights,
    transformers_config as transformers_config,
)
from svdistill.networks.zoo import InputSpec as InputSpec
