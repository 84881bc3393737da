"""All that is needed to go on where a run was, in one file that knows whether it is whole.

A checkpoint is what `torch.save` writes, then a SHA-256 of that: any change shows. The last two are
kept, so that one is always left.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from svdistill.common import RunError, require_no_device, write_atomically
from svdistill.parallel import is_main

MARK: Final = b"svdistill sha256"

TRAILER_BYTES: Final = len(MARK) + hashlib.sha256().digest_size


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


class Checkpoint(NamedTuple):
    """Where a run was, and the state of all that has any.

    Attributes:
        place: whole epochs.
        states: state dictionaries of network, optimizer and so on.
        begun: what `BegunEpoch.state_dict` says of an epoch that has begun; None between epochs.
    """

    place: Place
    states: dict[str, dict[str, Any]]
    begun: dict[str, Any] | None = None


class Checkpoints:
    """The last two checkpoints of a run.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.newest = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint-previous.pt"
        self._damaged = False

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one more; what was the newest becomes the previous one, unless it is damaged.

        Of several processes the main one writes.
        """
        if not is_main():
            return
        keep = None if self._damaged else self.previous
        save_checkpoint(self.newest, checkpoint, keep=keep)
        self._damaged = False

    def load(self, device: torch.device) -> Checkpoint | None:
        """The newest that is whole, with a warning if that is the previous one; None without any.

        Raises:
            RunError: none of them is whole.
        """
        if not self.any():
            return None
        try:
            return load_checkpoint(self.newest, device)
        except RunError as error:
            if not self.previous.exists():
                raise
            checkpoint = load_checkpoint(self.previous, device)
            self._damaged = True
            warnings.warn(
                f"{error.argument} is damaged or missing: going on from {self.previous}, the "
                "checkpoint before it. Nothing is lost but the time between the two",
                RuntimeWarning,
                stacklevel=2,
            )
            return checkpoint

    def any(self) -> bool:
        """Whether there is one, whole or not."""
        return self.newest.exists() or self.previous.exists()

    def remove(self) -> None:
        """Remove both."""
        for path in (self.newest, self.previous):
            path.unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep: Path | None = None) -> None:
    """Write a checkpoint and its checksum, atomically.

    Args:
        path: the file to be.
        checkpoint: what it holds.
        keep: where to move the file that was there before.
    """
    content = {**checkpoint._asdict(), "place": asdict(checkpoint.place)}

    def write(temporary: Path) -> None:
        # Through Python's file: of a full disk it says so, where torch's own says nothing useful.
        with temporary.open("wb+") as file:
            torch.save(content, file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(MARK + digest)

    write_atomically(path, write, keep=keep)


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed (`weights_only=True`).

    Raises:
        RunError: it is damaged, or not a checkpoint of svdistill.
    """
    # Of several processes on CPUs each is told to be on "cpu:0", where torch loads nothing.
    location = torch.device("cpu") if device.type == "cpu" else device
    try:
        content = torch.load(_whole(path), map_location=location, weights_only=True)
        known = content["place"]
        place = Place(**{field.name: known[field.name] for field in fields(Place)})
        return Checkpoint(place, content["states"], content["begun"])
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise RunError(
            str(path),
            expected="a checkpoint that svdistill wrote",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="start the run again in another directory",
        ) from error


def _whole(path: Path) -> io.BytesIO:
    """What a file holds before its checksum, which is compared."""
    require_no_device(path)
    content = path.read_bytes()
    trailer = content[-TRAILER_BYTES:]
    if not trailer.startswith(MARK):
        raise ValueError("a file that was cut short, or is of an earlier version")
    file = io.BytesIO(content)
    file.truncate(len(content) - TRAILER_BYTES)
    if hashlib.sha256(file.getbuffer()).digest() != trailer[len(MARK) :]:
        raise ValueError("other bytes than were written: its checksum is wrong")
    return file
