"""Networks of torchvision; `prepare_torchvision` makes it work with a CPU build of torch."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import nn

from svdistill.common import ArgumentError, nearest, require_package
from svdistill.networks.zoo import InputSpec, fetching_weights

# Importing torchvision registers shape functions of these operators, and fails if the operators
# do not exist.
SCHEMAS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# Kept here, since an operator exists only for as long as its library object.
_libraries: list[torch.library.Library] = []


def prepare_torchvision() -> None:
    """Make `import torchvision` work with a CPU build of torch.

    PyPI's torchvision is built for the CUDA build of torch. With a CPU build its operators do not
    load, and the import fails with `operator torchvision::nms does not exist`. Classifiers use none
    of these operators, so defining their names is enough. Call this before the import; it does
    nothing if torchvision is absent or imports without error.
    """
    if _libraries or find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _libraries.append(library)


# GoogLeNet and Inception v3 have another structure with published weights than without, unless
# these options are set. Their auxiliary heads, which serve an additional loss, are left out.
AS_PUBLISHED: Final = {"aux_logits": False, "transform_input": True, "init_weights": True}

WITH_AUXILIARY_HEADS: Final = ("googlenet", "inception_v3")


def build(name: str, num_classes: int, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """See `Zoo.build`. Published weights are the ones that torchvision names DEFAULT.

    A vision transformer with published weights takes only the image size of those weights.
    """
    models = _models(name)
    if not pretrained:
        return _fresh(models, name, num_classes, image_size)
    with fetching_weights(f"torchvision:{name}"):
        weights = models.get_model_weights(name).DEFAULT
        network = models.get_model(name, weights=weights)
    if name == "inception_v3":
        network.aux_logits, network.AuxLogits = False, None
    if num_classes != len(weights.meta["categories"]):
        fresh = _fresh(models, name, num_classes, input_spec(name).image_size)
        for path in _modules_of_other_shape(network, fresh):
            network.set_submodule(path, fresh.get_submodule(path))
    return network


def input_spec(name: str) -> InputSpec:
    """See `Zoo.input_spec`."""
    preset = _models(name).get_model_weights(name).DEFAULT.transforms()
    return InputSpec(max(preset.crop_size), tuple(preset.mean), tuple(preset.std))


def pretrained_classes(name: str) -> int:
    """See `Zoo.pretrained_classes`."""
    return len(_models(name).get_model_weights(name).DEFAULT.meta["categories"])


def _models(name: str) -> Any:
    """Return the module `torchvision.models`; raises `ArgumentError` if it has no such network."""
    prepare_torchvision()
    models: Any = require_package("torchvision.models", extra="zoo")
    known = models.list_models(module=models)
    if name not in known:
        raise ArgumentError(
            "network",
            expected="torchvision: and the name of a classifier that torchvision has",
            got=repr(f"torchvision:{name}"),
            remedy=nearest(name, known),
        )
    return models


def _fresh(models: Any, name: str, num_classes: int, image_size: int | None) -> nn.Module:
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("vit_") and image_size is not None:
        options["image_size"] = image_size
    if name in WITH_AUXILIARY_HEADS:
        options |= AS_PUBLISHED
    return models.get_model(name, weights=None, **options)


def _modules_of_other_shape(network: nn.Module, like: nn.Module) -> list[str]:
    """Return paths of the modules whose own parameters differ in shape between two networks."""
    return [
        path
        for path, module in network.named_modules()
        if [p.shape for p in module.parameters(recurse=False)]
        != [p.shape for p in like.get_submodule(path).parameters(recurse=False)]
    ]
