"""All that is needed to go on after the last whole epoch, in one file."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from svdistill.errors import RunError
from svdistill.files import write_atomically
from svdistill.parallel import is_main


@dataclass(frozen=True)
class Place:
    """How far a run has come.

    Attributes:
        stage: index of the stage it is in.
        epoch: whole epochs of that stage.
        total: whole epochs of all stages.
        best_epoch: the best of them, counted from 0 over all stages; -1 before the first.
        best_score: its accuracy on the split that chooses.
        best_accuracy: its accuracy on the test split.
        last_accuracy: accuracy on the test split after the last whole epoch.
        seconds: spent so far.
    """

    stage: int = 0
    epoch: int = 0
    total: int = 0
    best_epoch: int = -1
    best_score: float = -1.0
    best_accuracy: float = 0.0
    last_accuracy: float = 0.0
    seconds: float = 0.0


def save_checkpoint(path: Path, place: Place, states: dict[str, dict[str, Any]]) -> None:
    """Write the place and the state dictionaries of everything that has state, atomically.

    Of several processes the main one writes.
    """
    if not is_main():
        return
    content = {"place": asdict(place), "states": states}
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_checkpoint(path: Path, device: torch.device) -> tuple[Place, dict[str, dict[str, Any]]]:
    """Read a checkpoint; nothing in it is executed (`weights_only=True`).

    Raises:
        RunError: it is damaged, or not a checkpoint of svdistill.
    """
    try:
        # torch reads a flipped bit without a murmur, though it writes the checksums that tell.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"damaged in {damaged}")
        content = torch.load(path, map_location=device, weights_only=True)
        place = Place(**{field.name: content["place"][field.name] for field in fields(Place)})
        return place, content["states"]
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise RunError(
            str(path),
            expected="a checkpoint that svdistill wrote",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="start the run again in another directory",
        ) from error
