"""Weights as safetensors files, with a card that describes their network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svdistill.common import (
    MOST,
    Finite,
    RunError,
    SVDistillError,
    from_plain,
    in_short,
    reading,
    require_no_device,
    write_atomically,
)
from svdistill.networks import (
    build_network,
    build_transformers_network,
    is_transformers_network,
    is_zoo,
    load_transformers_weights,
    network_names,
    on_meta_device,
    transformers_config,
)
from svdistill.parallel import is_main, is_sharded

METADATA_KEY = "svdistill"

STUDENT: Final = "student.safetensors"

# Limits on the values in a card, since a weights file may come from an untrusted source.
MOST_WIDTH: Final = 64.0
MOST_SIDE: Final = 1 << 14

CHANNELS: Final = Meta(min_length=3, max_length=3)


@dataclass(frozen=True)
class WeightsCard:
    """Describes the network of a weights file; stored as JSON in the file's header.

    Attributes:
        network: a name that `build_network` knows, or `module:attr` or `object` for a network of
            the user's own code.
        width: factor on the network's channels.
        class_names: names of the classes, in the order of the logits.
        mean, std: mean and standard deviation of each channel, for pixels in 0 to 1, with which
            images are normalised.
        image_size: side of the training images in pixels.
        sha256: SHA-256 of card and weights, set by `save_weights`.
        config: configuration of a transformers network, as `transformers_config` writes it; empty
            for other networks.
    """

    network: str
    width: Annotated[float, Meta(gt=0, le=MOST_WIDTH)]
    class_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    mean: Annotated[tuple[Finite, ...], CHANNELS]
    std: Annotated[tuple[Annotated[float, Meta(gt=0, le=MOST)], ...], CHANNELS]
    image_size: Annotated[int, Meta(gt=0, le=MOST_SIDE)]
    sha256: str = field(default="", compare=False)
    config: str = ""


def read_card(path: Path) -> WeightsCard | None:
    """Read a weights file's card; None if another tool wrote the file; `RunError` if damaged."""
    with _reading(path):
        _require_there(path)
        require_no_device(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        return None
    remedy = "name its network with teacher_network, or train it again"
    with reading(path, expected="a header that svdistill wrote", remedy=remedy):
        return from_plain(WeightsCard, json.loads(text))


def _require_there(path: Path) -> None:
    if not path.exists():
        unfinished = path.name == STUDENT and path.parent.is_dir()
        raise RunError(
            str(path),
            expected="a run directory or a weights file",
            got="nothing at this path",
            remedy="finish the run with --resume, or give another"
            if unfinished
            else "check the path",
        )


def _header(card: WeightsCard) -> dict[str, Any]:
    """The fields of a card as they are written to a file: an empty `config` is left out."""
    return {name: value for name, value in asdict(card).items() if value or name != "config"}


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(
        path,
        expected="a .safetensors file",
        remedy="check the path; the file may be missing or cut short",
        errors=(OSError, SafetensorError),
    )


def save_weights(path: Path, network: nn.Module, card: WeightsCard) -> None:
    """Write a network's weights and card as safetensors, atomically, in the main process.

    Weights that two modules share are written twice, once under each name.
    """
    if not is_main():
        return
    tensors = _separate(network.state_dict())
    if card.network.startswith("hf:"):
        card = replace(card, config=transformers_config(network))
    card = replace(card, sha256=_digest(card, tensors))
    metadata = {METADATA_KEY: json.dumps(_header(card))}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def weights_file(path: Path) -> Path:
    """The weights file of a run directory, or the path itself."""
    return path / STUDENT if path.is_dir() else path


def load_student(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load a network that a run has trained, in eval mode.

    Nothing is downloaded and no user code is imported, even if the file names some.

    Args:
        path: a run directory (its last epoch), or a `.safetensors` file that a run wrote, such as
            `student-best.safetensors`.
        network: a network built as for the run, into which the weights are loaded; required if the
            run's network was a Python object or `module:attr`.

    Returns:
        The network: the given one, or a new one on the CPU.

    Raises:
        RunError: the file is missing or damaged, holds another network's weights, or does not name
            its network and `network` is None.
        ArgumentError: the package that builds the network is not installed.
    """
    file = weights_file(Path(path))
    card = read_card(file)
    if network is None:
        if card is None:
            raise RunError(
                str(file),
                expected="weights that svdistill wrote",
                got="a file that does not say what network it is of",
                remedy="build the network yourself and use safetensors.torch.load_model",
            )
        network = build_as_on_card(card, file)
    load_weights(network, file)
    return network.eval()


def is_own_code(card: WeightsCard) -> bool:
    """Whether a card describes a network of the user's own code, which is never imported."""
    return not is_zoo(card.network) and card.network not in network_names()


def build_as_on_card(card: WeightsCard, file: Path) -> nn.Module:
    """Build the network that a card describes, with random weights.

    Raises `RunError` for a network of the user's own code, which is not imported.
    """
    if not is_own_code(card):
        _require_to_hold(card, file)
        return _build(card)
    raise RunError(
        str(file),
        expected="a network that is built by its name",
        got=f"{card.network!r}, which means code of your own",
        remedy="build it and give it, load_student(path, network=...) in Python, "
        "--teacher_network module:attr for a teacher's, --network for evaluate",
    )


def _build(card: WeightsCard) -> nn.Module:
    classes = len(card.class_names)
    if card.network.startswith("hf:"):
        return build_transformers_network(card.config, classes)
    return build_network(card.network, classes, card.width, image_size=card.image_size)


def _require_to_hold(card: WeightsCard, file: Path) -> None:
    """Raise `RunError` if a card describes a network that is much larger than its file.

    The networks of timm and torchvision, whose size is given by their name, are not checked.
    """
    if is_zoo(card.network) and not card.network.startswith("hf:"):
        return
    try:
        with on_meta_device():
            parameters = list(_build(card).parameters())
    except SVDistillError:
        raise
    except Exception as error:  # transformers may raise anything
        got = in_short(error)
    else:
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        # A file has at least one byte for each number, which takes 4 bytes in float32.
        held = 4 * weights_file(file).stat().st_size
        if size <= held:
            return
        got = f"one of {size:,} bytes"
    raise RunError(
        str(file),
        expected="a card of the network that the file holds",
        got=got,
        remedy="copy the file again, or train the network again",
    )


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file; raise `RunError` if it is of another network."""
    tensors = read_tensors(path)
    try:
        if is_transformers_network(network) and tensors.keys() != network.state_dict().keys():
            # The names of weights differ between versions of transformers.
            differing = load_transformers_weights(network, tensors)
            if differing:
                raise RuntimeError(f"other shapes: {', '.join(differing[:3])}")
        else:
            network.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            str(path),
            expected=f"the weights of {type(network).__name__} as it was built",
            got=" ".join(str(error).split())[:300],
            remedy="check the network's name, its width and the number of classes",
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file; verify the checksum if svdistill wrote the file."""
    card = read_card(path)
    with _reading(path):
        tensors = load_file(path)
        if card is not None and card.sha256 != _digest(card, tensors):
            raise SafetensorError("its checksum is wrong")
    return tensors


def network_digest(network: nn.Module) -> str:
    """A SHA-256 of a network's class and weights, with their names and shapes."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor) or is_sharded(tensor):
            continue
        digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(card: WeightsCard, tensors: Mapping[str, Tensor]) -> str:
    """A checksum of card and weights; the safetensors format has none of its own."""
    digest = hashlib.sha256(json.dumps(_header(replace(card, sha256=""))).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, which safetensors refuses."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate
