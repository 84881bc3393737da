"""Networks of timm, by timm's names: `resnet18`, `convnext_tiny.fb_in22k_ft_in1k`."""

from __future__ import annotations

from typing import Any

from torch import nn

from svdistill.common import ArgumentError, nearest, require_package
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.networks.zoo import InputSpec, fetching_weights, in_hub_cache, require_hub


def build(name: str, num_classes: int, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """See `Zoo.build`. Published position embeddings are resampled to the `image_size`."""
    entry = _entry(name)
    options: dict[str, Any] = {"num_classes": num_classes}
    if entry.fixed_input_size and image_size is not None:
        options["img_size"] = image_size
    if not pretrained:
        return _timm().create_model(name, pretrained=False, **options)
    if not entry.has_weights:
        raise ArgumentError(
            f"timm:{name}",
            expected="a network with published weights",
            got="one of which timm has none",
            remedy="leave pretrained out, or give a local file as --weights",
        )
    with fetching_weights(f"timm:{name}"):
        # The overlay keeps timm from asking the hub for a newer version of a cached file.
        overlay = _cached_weights(entry)
        return _timm().create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )


def input_spec(name: str) -> InputSpec:
    """See `Zoo.input_spec`."""
    entry = _entry(name)
    return InputSpec(max(entry.input_size[1:]), tuple(entry.mean), tuple(entry.std))


def pretrained_classes(name: str) -> int:
    """See `Zoo.pretrained_classes`."""
    return int(_entry(name).num_classes)


def _timm() -> Any:
    prepare_torchvision()
    return require_package("timm", extra="zoo")


def _entry(name: str) -> Any:
    """Return timm's configuration of a network: its weights' source, input size and classes."""
    timm = _timm()
    plain, tagged = timm.list_models(), timm.list_models(include_tags=True)
    if name not in plain and name not in tagged:
        raise ArgumentError(
            "network",
            expected="timm: and a name that timm has",
            got=repr(f"timm:{name}"),
            remedy=nearest(name, tagged if "." in name else plain),
        )
    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def _cached_weights(entry: Any) -> dict[str, Any] | None:
    """Return timm options that load the cached weights; None, after a hub check, if not cached."""
    if not entry.hf_hub_id:
        return None
    file = in_hub_cache(entry.hf_hub_id, "model.safetensors")
    if file is None:
        require_hub(entry.hf_hub_id)
        return None
    return {"file": str(file), "custom_load": False}
