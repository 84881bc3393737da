"""Configurations of transformers' image classifiers, without the code that they may ask for."""

from __future__ import annotations

import json
from typing import Any, Final

from torch import nn

from svdistill.errors import ArgumentError, require_package
from svdistill.networks.torchvision_build import prepare_torchvision

# What a config.json may say that makes transformers fetch and run code, or replaces modules.
OUTSIDE_CODE: Final = (
    *("auto_map", "quantization_config", "use_kernels", "attn_implementation"),
    *("_attn_implementation", "experts_implementation", "_experts_implementation"),
)
# True of one machine, or of the version that wrote it.
OF_THE_MOMENT: Final = ("_name_or_path", "transformers_version")


def transformers() -> Any:
    """The package."""
    prepare_torchvision()
    return require_package("transformers", extra="zoo")


def as_config(argument: str, described: Any) -> Any:
    """A configuration object, of a kind for which transformers has the code.

    Args:
        argument: what the message names.
        described: a config.json's content.

    Raises:
        ArgumentError: it is no configuration of an image classifier that transformers has.
    """
    kind = described.get("model_type") if isinstance(described, dict) else None
    try:
        if kind == "timm_wrapper":
            raise ValueError("one of timm, whose networks are named timm:NAME")
        if not isinstance(kind, str) or kind not in transformers().CONFIG_MAPPING:
            raise ValueError(f"the model_type {kind!r}")
        config_class = transformers().CONFIG_MAPPING[kind]
        if config_class not in transformers().MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise ValueError(f"the model_type {kind!r}, which classifies no images")
        return config_class.from_dict(_without(OUTSIDE_CODE, described))
    except Exception as error:  # a file from anywhere may say anything
        raise ArgumentError(
            argument,
            expected="an image classifier that transformers has",
            got=" ".join(str(error).split())[:200],
            remedy="check the name; for a model with code of its own, import it by module:attr",
        ) from error


def fresh_network(config: Any, num_classes: int) -> nn.Module:
    """Build a configuration's network, freshly initialised, float32."""
    config.num_labels = num_classes
    network: nn.Module = transformers().AutoModelForImageClassification.from_config(config)
    return network.float()


def config_text(network: nn.Module) -> str:
    """A network's configuration as JSON: `build_from_config` needs neither folder nor hub then."""
    described = network.config.to_dict()  # type: ignore[operator, union-attr]
    return json.dumps(_without(OUTSIDE_CODE + OF_THE_MOMENT, described), sort_keys=True)


def build_from_config(text: str, num_classes: int) -> nn.Module:
    """Build a network, freshly initialised, from what `config_text` wrote.

    Raises:
        ArgumentError: it is no configuration of an image classifier that transformers has.
    """
    try:
        described = json.loads(text)
    except ValueError:
        described = None
    return fresh_network(as_config("config", described), num_classes)


def _without(keys: tuple[str, ...], value: Any) -> Any:
    """JSON without these keys, at any depth."""
    if isinstance(value, dict):
        return {name: _without(keys, item) for name, item in value.items() if name not in keys}
    return [_without(keys, item) for item in value] if isinstance(value, list) else value
