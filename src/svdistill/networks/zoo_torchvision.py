"""Classifiers of torchvision, by its names: `resnet18`, `vit_b_16`."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from svdistill.errors import ArgumentError, nearest, require_package
from svdistill.networks.input_spec import InputSpec
from svdistill.networks.torchvision_build import prepare_torchvision
from svdistill.networks.zoo import fetching_weights

# These two are built otherwise with published weights than without, unless they are told. Their
# auxiliary heads, which serve a loss of their own, are left out.
AS_PUBLISHED: Final = {"aux_logits": False, "transform_input": True, "init_weights": True}
WITH_AUXILIARY_HEADS: Final = ("googlenet", "inception_v3")


def build(name: str, num_classes: int, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """See `Zoo.build`. Published weights are torchvision's default ones.

    A vision transformer with published weights takes images of their size only.
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
    """The package of torchvision's classifiers, which has this one."""
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
    """Paths of the modules of which one network's own parameters differ in shape: the head."""
    return [
        path
        for path, module in network.named_modules()
        if [p.shape for p in module.parameters(recurse=False)]
        != [p.shape for p in like.get_submodule(path).parameters(recurse=False)]
    ]
