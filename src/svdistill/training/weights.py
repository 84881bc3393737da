"""Network weights as safetensors that say what they are; no pickle is ever read here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svdistill.errors import ArgumentError, RunError
from svdistill.files import write_atomically
from svdistill.networks import build_network
from svdistill.networks.external import import_network

METADATA_KEY = "svdistill"


@dataclass(frozen=True)
class WeightsCard:
    """What must be known to use a weights file: kept in its header, as JSON.

    Attributes:
        network: a name that `build_network` knows.
        width: factor on its channels.
        class_names: in the order of the logits.
        mean, std: of the channels, in 0 to 1, with which images are normalised.
        image_size: side of the images it was trained on, in pixels.
        sha256: of all this and of the weights, filled in when they are saved; empty in files of
            earlier versions, whose weights are not checked.
    """

    network: str
    width: float
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    sha256: str = field(default="", compare=False)


def save_weights(path: Path, network: nn.Module, card: WeightsCard) -> None:
    """Write a network's weights and card as safetensors, atomically."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    card = replace(card, sha256=_digest(card, tensors))
    metadata = {METADATA_KEY: json.dumps(asdict(card))}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def read_card(path: Path) -> WeightsCard | None:
    """The card of a weights file, or None where another tool wrote it.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if text is None:
        return None
    try:
        fields = json.loads(text)
        return WeightsCard(
            str(fields["network"]),
            float(fields["width"]),
            tuple(map(str, fields["class_names"])),
            tuple(map(float, fields["mean"])),
            tuple(map(float, fields["std"])),
            int(fields["image_size"]),
            str(fields.get("sha256", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            str(path),
            expected="a header that svdistill wrote",
            got=f"{type(error).__name__}: {error}",
            remedy="name its network with teacher_network, or train it again",
        ) from error


def weights_file(path: Path) -> Path:
    """The weights that a path means: a run directory's student, or the file itself."""
    return path / "student.safetensors" if path.is_dir() else path


def load_student(path: str | Path) -> nn.Module:
    """Load a network that a run has trained, in eval mode.

    Args:
        path: a run directory (its last epoch), or a `.safetensors` file that a run wrote, such as
            `student-best.safetensors`.

    Returns:
        The network, on the CPU.

    Raises:
        RunError: the file is missing, damaged, or says nothing of its network.
    """
    file = weights_file(Path(path))
    card = read_card(file)
    if card is None:
        raise RunError(
            str(file),
            expected="weights that svdistill wrote",
            got="a file that does not say what network it is of",
            remedy="build the network yourself and use safetensors.torch.load_model",
        )
    network = build_network(card.network, len(card.class_names), card.width)
    load_weights(network, file)
    return network.eval()


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file; every name and shape must agree.

    Raises:
        RunError: the file is missing or damaged, or is of another network.
    """
    card = read_card(path)
    try:
        tensors = load_file(path)
        if card is not None and card.sha256 not in ("", _digest(card, tensors)):
            raise SafetensorError("its checksum is wrong")
        network.load_state_dict(tensors)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    except RuntimeError as error:
        raise RunError(
            str(path),
            expected=f"the weights of {type(network).__name__} as it was built",
            got=" ".join(str(error).split())[:300],
            remedy="check the network's name, its width and the number of classes",
        ) from error


def load_teacher(
    spec: str, num_classes: int, *, network: str | None = None, width: float = 1.0
) -> nn.Module:
    """Load a teacher from wherever the user keeps it.

    Args:
        spec: a run directory, a `.safetensors` file, or `module:attr` (see `import_network`).
        num_classes: the classes of the data, which the teacher's must be.
        network: name of the network, for a file that does not say it.
        width: factor on its channels, likewise.

    Returns:
        The network; its logits' number is not checked here.

    Raises:
        ArgumentError: the spec is none of the three, or a name is needed.
        RunError: the weights are missing, damaged, or of another network or class count.
    """
    path = Path(spec)
    if path.exists():
        file = weights_file(path)
        card = read_card(file)
        if card is None and network is None:
            raise ArgumentError(
                "teacher_network",
                expected=f"the name of the network in {file}, which does not say it",
                got="nothing",
                remedy="give --teacher_network, one of `svdistill info`",
            )
        if card is not None and len(card.class_names) != num_classes:
            raise RunError(
                str(file),
                expected=f"a teacher of the data's {num_classes} classes",
                got=f"one of {len(card.class_names)}",
                remedy="train the teacher on the same data and classes",
            )
        if card is not None:
            network, width = card.network, card.width
        teacher = build_network(str(network), num_classes, width)
        load_weights(teacher, file)
        return teacher
    if ":" in spec:
        return import_network(spec, num_classes)
    raise ArgumentError(
        "teacher",
        expected="a run directory, a .safetensors file or module:attr",
        got=f"{spec!r}, which does not exist",
        remedy="check the path",
    )


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        str(path),
        expected="a .safetensors file",
        got=f"{type(error).__name__}: {error}",
        remedy="check the path; the file may be missing or cut short",
    )


def _digest(card: WeightsCard, tensors: Mapping[str, Tensor]) -> str:
    """A checksum, since safetensors have none: a flipped bit would load as another weight."""
    digest = hashlib.sha256(json.dumps(asdict(replace(card, sha256=""))).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
