"""What a weights file says of its network: a card in its header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta
from safetensors import SafetensorError, safe_open

from svdistill.errors import RunError
from svdistill.files import require_no_device
from svdistill.plain_values import MOST, Finite, from_plain

METADATA_KEY = "svdistill"
# A card may claim anything; no network comes near these.
MOST_WIDTH: Final = 64.0
MOST_SIDE: Final = 1 << 14
CHANNELS: Final = Meta(min_length=3, max_length=3)


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
    width: Annotated[float, Meta(gt=0, le=MOST_WIDTH)]
    class_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    mean: Annotated[tuple[Finite, ...], CHANNELS]
    std: Annotated[tuple[Annotated[float, Meta(gt=0, le=MOST)], ...], CHANNELS]
    image_size: Annotated[int, Meta(gt=0, le=MOST_SIDE)]
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
        return from_plain(WeightsCard, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RunError(
            str(path),
            expected="a header that svdistill wrote",
            got=f"{type(error).__name__}: {error}",
            remedy="name its network with teacher_network, or train it again",
        ) from error


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
