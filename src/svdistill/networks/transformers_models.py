"""Image classifiers of transformers, by their name on the hub or from a folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from svdistill.common import ArgumentError, require_package
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.networks.zoo import InputSpec, fetching_weights, in_hub_cache, require_hub

# Keys of a config.json that make transformers fetch and run code, or replace modules.
OUTSIDE_CODE: Final = (
    *("auto_map", "quantization_config", "use_kernels", "attn_implementation"),
    *("_attn_implementation", "experts_implementation", "_experts_implementation"),
)

# Keys of a config.json that depend on the machine or on the version of transformers.
MACHINE_KEYS: Final = ("_name_or_path", "transformers_version")


def transformers() -> Any:
    """Import and return the package transformers."""
    prepare_torchvision()
    return require_package("transformers", extra="zoo")


def as_config(argument: str, described: Any) -> Any:
    """Convert the content of a config.json to a configuration object of transformers.

    Raises:
        ArgumentError: if it does not describe an image classifier that transformers has.
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
    except Exception as error:  # a file of unknown origin may cause any exception
        raise ArgumentError(
            argument,
            expected="an image classifier that transformers has",
            got=" ".join(str(error).split())[:200],
            remedy="check the name; for a model with code of its own, import it by module:attr",
        ) from error


def fresh_network(config: Any, num_classes: int) -> nn.Module:
    """Build the network that a configuration describes, freshly initialised, in float32."""
    config.num_labels = num_classes
    network: nn.Module = transformers().AutoModelForImageClassification.from_config(config)
    return network.float()


def transformers_config(network: nn.Module) -> str:
    """Return a network's configuration as JSON text, for `build_transformers_network`."""
    described = network.config.to_dict()  # type: ignore[operator, union-attr]
    return json.dumps(_without(OUTSIDE_CODE + MACHINE_KEYS, described), sort_keys=True)


def build_transformers_network(text: str, num_classes: int) -> nn.Module:
    """Build a network, freshly initialised, from text that `transformers_config` returned."""
    try:
        described = json.loads(text)
    except ValueError:
        described = None
    return fresh_network(as_config("config", described), num_classes)


def _without(keys: tuple[str, ...], value: Any) -> Any:
    """Remove keys at any depth from data that was parsed from JSON."""
    if isinstance(value, dict):
        return {name: _without(keys, item) for name, item in value.items() if name not in keys}
    return [_without(keys, item) for item in value] if isinstance(value, list) else value


WEIGHTS_FILES: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def build(name: str, num_classes: int, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """See `Zoo.build`. Code that comes with a model is never run.

    `image_size` is ignored with published weights: many networks then take one image size only.
    """
    config = _read_config(name)
    if not pretrained:
        if image_size is not None and hasattr(config, "image_size"):
            config.image_size = image_size
        return fresh_network(config, num_classes)
    config.num_labels = num_classes
    with fetching_weights(f"hf:{name}"), _quiet():
        network, loaded = transformers().AutoModelForImageClassification.from_pretrained(
            _place(name),
            config=config,
            ignore_mismatched_sizes=True,
            local_files_only=_on_this_machine(name, *WEIGHTS_FILES),
            output_loading_info=True,
        )
    _require_all_but_head(name, network, loaded["missing_keys"], num_classes)
    return network.float().train()


def input_spec(name: str) -> InputSpec:
    """See `Zoo.input_spec`; read from the image processor's file, else from its class defaults."""
    config = _read_config(name)
    reader = transformers().ImageProcessingMixin
    try:
        local = _on_this_machine(name, "preprocessor_config.json")
        processor, _ = reader.get_image_processor_dict(_place(name), local_files_only=local)
    except Exception:  # there is no such file, or no connection
        processor = _usual_processor(config)
    mean, std = (processor.get(key) or [0.5] * 3 for key in ("image_mean", "image_std"))
    own = getattr(config, "image_size", None)
    side = _side(own) or _side(processor.get("crop_size")) or _side(processor.get("size"))
    return InputSpec(side or 224, tuple(map(float, mean)), tuple(map(float, std)))


def pretrained_classes(name: str) -> int:
    """See `Zoo.pretrained_classes`."""
    return int(_read_config(name).num_labels)


def is_transformers_network(network: nn.Module) -> bool:
    """Whether a network's class belongs to transformers."""
    return type(network).__module__.startswith("transformers.")


def load_transformers_weights(network: Any, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load weights into a network of transformers; any version's weight names are understood.

    Returns:
        Names of the weights that differ from the network's in their first dimension (the head for
        another number of classes). These are not loaded: the network keeps its own.

    Raises:
        RuntimeError: if weights are missing, are unused, or differ in another dimension.
    """
    with _quiet():
        filled, loaded = type(network).from_pretrained(
            None,
            config=network.config,
            state_dict=dict(tensors),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    differing = loaded["mismatched_keys"]
    left = tuple(sorted(name for name, *_ in differing))
    others = [name for name, theirs, own in differing if theirs[1:] != own[1:]]
    wrong = {
        "lacking": sorted(loaded["missing_keys"]),
        "too many": sorted(loaded["unexpected_keys"]),
        "of other shapes": sorted(others),
    }
    if any(wrong.values()):
        told = (f"{what}: {', '.join(names[:3])}" for what, names in wrong.items() if names)
        raise RuntimeError("; ".join(told))
    state = {name: value for name, value in filled.state_dict().items() if name not in left}
    network.load_state_dict(state, strict=False)
    return left


def _place(name: str) -> str:
    """Return the expanded path if the name is that of a folder, else the name, as on the hub."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _on_this_machine(name: str, *files: str) -> bool:
    """Whether one of a model's files is on this machine; if not, require that the hub has it."""
    if Path(_place(name)).is_dir():
        return True
    if name.startswith((".", "/", "~")):
        raise ArgumentError(
            "network",
            expected="hf: and a folder with a config.json, or the name of a model on the hub",
            got=repr(f"hf:{name}"),
            remedy="check the path",
        )
    if not any(in_hub_cache(name, file) for file in files):
        require_hub(name)
        return False
    return True


def _read_config(name: str) -> Any:
    reader = transformers().PretrainedConfig
    with fetching_weights(f"hf:{name}"):
        local = _on_this_machine(name, "config.json")
        described, _ = reader.get_config_dict(_place(name), local_files_only=local)
    return as_config(f"hf:{name}", described)


def _require_all_but_head(
    name: str, network: nn.Module, missing: Collection[str], num_classes: int
) -> None:
    """Raise `ArgumentError` if published weights lack parameters other than the head's."""
    shapes = {path: tuple(tensor.shape) for path, tensor in network.state_dict().items()}
    left = sorted(path for path in missing if shapes.get(path, ())[:1] != (num_classes,))
    if left:
        raise ArgumentError(
            f"hf:{name}",
            expected=f"weights of a {type(network).__name__}",
            got=f"none for {left[0]}" + (f" and {len(left) - 1} more" if left[1:] else ""),
            remedy="give a model that was trained to classify images",
        )


def _usual_processor(config: Any) -> dict[str, Any]:
    """Return the default image processor settings for a configuration's class."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    try:
        kinds = IMAGE_PROCESSOR_MAPPING[type(config)]  # a dict by backend, or (slow, fast)
        kinds = kinds.values() if isinstance(kinds, dict) else kinds
        usual: dict[str, Any] = next(kind for kind in kinds if kind is not None)().to_dict()
    except Exception:  # no processor is known, or a package that it needs is missing
        return {}
    return usual


def _side(size: Any) -> int | None:
    """Return the image side from transformers' size settings: a number, list or dictionary."""
    if isinstance(size, dict):
        size = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key)]
    if isinstance(size, (list, tuple)):
        size = max(size, default=None)
    return size if isinstance(size, int) and size > 0 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report of loaded weights and its progress bar within the block."""
    logging = transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
