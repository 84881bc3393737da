"""Image classifiers of Hugging Face's transformers, from a folder or by their name on the hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from svdistill.errors import ArgumentError
from svdistill.networks.hf_config import as_config, fresh_network, transformers
from svdistill.networks.input_spec import InputSpec
from svdistill.networks.zoo import fetching_weights, in_hub_cache, require_hub

WEIGHTS_FILES: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def build(name: str, num_classes: int, *, pretrained: bool, image_size: int | None) -> nn.Module:
    """See `Zoo.build`. Code that comes with a model is never run.

    Many a transformer with published weights takes images of their size only.
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
    """See `Zoo.input_spec`: what the image processor's file says, else its kind's defaults."""
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


def is_of_transformers(network: nn.Module) -> bool:
    """Whether transformers built a network."""
    return type(network).__module__.startswith("transformers.")


def fill(network: Any, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Fill one of transformers' networks with weights as any of its versions named them.

    Args:
        network: of transformers.
        tensors: by their names.

    Returns:
        Names of the tensors that differ in their rows, a head's of other classes; left as they are.

    Raises:
        RuntimeError: weights that are missing, of no use, or of other shapes.
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
    """A folder as a path, or a name on the hub."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _on_this_machine(name: str, *files: str) -> bool:
    """Whether one of a model's files is here; if not, make sure that the hub can be reached."""
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
    """Raise where published weights leave more to chance than the head."""
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
    """What the image processor of this kind of network does unless a file says otherwise."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    try:
        kinds = IMAGE_PROCESSOR_MAPPING[type(config)]  # by backend, or slow and fast
        kinds = kinds.values() if isinstance(kinds, dict) else kinds
        usual: dict[str, Any] = next(kind for kind in kinds if kind is not None)().to_dict()
    except Exception:  # none is known, or it lacks a package
        return {}
    return usual


def _side(size: Any) -> int | None:
    """The side of images: of a number, a list, or one of transformers' dictionaries."""
    if isinstance(size, dict):
        size = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key)]
    if isinstance(size, (list, tuple)):
        size = max(size, default=None)
    return size if isinstance(size, int) and size > 0 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of loaded weights and its bar: we say what was left out."""
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
