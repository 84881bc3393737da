"""What a weights file says of its network: a card in its header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from svdistill.errors import RunError
from svdistill.files import require_no_device
from svdistill.plain_values import from_plain, require_finite

METADATA_KEY = "svdistill"
# A card may claim anything; no network comes near these.
MOST_WIDTH: Final = 64.0
MOST_SIDE: Final = 1 << 14


@dataclass(frozen=True)
class WeightsCard:
    """What must be known to use a weights file: kept in its header, as JSON.

    Attributes:
        network: a name that `build_network` knows, or `object`.
        width: factor on its channels.
        class_names: in the order of the logits.
        mean, std: of the channels, in 0 to 1, with which images are normalised.
        image_size: side of the images it was trained on, in pixels.
        sha256: of all this and of the weights, filled in when they are saved; empty in files of
            earlier versions, whose weights are not checked.
        config: of one of transformers' networks, as `config_text` writes it; empty of others.
    """

    network: str
    width: float
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    sha256: str = field(default="", compare=False)
    config: str = ""


def read_card(path: Path) -> WeightsCard | None:
    """The card of a weights file, or None where another tool wrote it.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        require_no_device(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    if text is None:
        return None
    try:
        return _checked(from_plain(WeightsCard, json.loads(text)))
    except (ValueError, RecursionError) as error:
        raise RunError(
            str(path),
            expected="a header that svdistill wrote",
            got=f"{type(error).__name__}: {error}",
            remedy="name its network with teacher_network, or train it again",
        ) from error


def _checked(card: WeightsCard) -> WeightsCard:
    """The card itself, unless it says what no network is."""
    require_finite(mean=card.mean, std=card.std)
    if not 0 < card.width <= MOST_WIDTH or not 0 < card.image_size <= MOST_SIDE:
        raise ValueError(f"width {card.width:g}, image_size {card.image_size}")
    if not card.class_names or len(card.mean) != 3 or len(card.std) != 3 or min(card.std) <= 0:
        raise ValueError("no classes, or no channels")
    return card


def header(card: WeightsCard) -> dict[str, Any]:
    """A card as it is written: as earlier versions did, where it says no more than theirs."""
    fields = asdict(card)
    return fields if card.config else {name: fields[name] for name in fields if name != "config"}


def unreadable(path: Path, error: Exception) -> RunError:
    """The error of a weights file that cannot be read."""
    return RunError(
        str(path),
        expected="a .safetensors file",
        got=f"{type(error).__name__}: {error}",
        remedy="check the path; the file may be missing or cut short",
    )
