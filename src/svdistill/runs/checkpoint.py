"""Checkpoints of a run: one file each, with a checksum.

A file is what `torch.save` writes, followed by its SHA-256. The last two are kept, so that one of
them is always whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import PickleError
from typing import Any, Final, NamedTuple

import torch

from svdistill.common import RunError, reading, require_no_device, write_atomically
from svdistill.parallel import is_main

MARK: Final = b"svdistill sha256"
TRAILER_BYTES: Final = len(MARK) + hashlib.sha256().digest_size

_DAMAGE: Final = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, PickleError)


@dataclass(frozen=True)
class TrainingPosition:
    """How far a run has come.

    Attributes:
        stage: index of the stage it is in.
        epoch: finished epochs of that stage.
        total: finished epochs of all stages.
        best_epoch: the best of them, counted from 0 over all stages; -1 before the first.
        best_score: its accuracy on the split that chooses the best epoch.
        best_accuracy: its accuracy on the test split.
        last_accuracy: accuracy on the test split after the last finished epoch.
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

    def next_epoch(self, test_accuracy: float, seconds: float) -> TrainingPosition:
        """The position after one more epoch, which took some seconds."""
        return replace(
            self,
            epoch=self.epoch + 1,
            total=self.total + 1,
            last_accuracy=test_accuracy,
            seconds=self.seconds + seconds,
        )

    def next_stage(self) -> TrainingPosition:
        """The position before the first epoch of the next stage."""
        return replace(self, stage=self.stage + 1, epoch=0)


class Checkpoint(NamedTuple):
    """Position and states of a run.

    Attributes:
        position: in finished epochs.
        states: state dictionaries of network, optimizer and so on.
        epoch_state: `EpochState.state_dict()` within an epoch; None between two.
    """

    position: TrainingPosition
    states: dict[str, dict[str, Any]]
    epoch_state: dict[str, Any] | None = None


class Checkpoints:
    """The last two checkpoints of a run, in its directory."""

    def __init__(self, folder: Path) -> None:
        self.newest = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint-previous.pt"
        self._damaged = False

    def save(self, checkpoint: Checkpoint) -> None:
        """In rank 0, write a checkpoint; the newest becomes the previous one if it is whole."""
        if is_main():
            save_checkpoint(self.newest, checkpoint, None if self._damaged else self.previous)
            self._damaged = False

    def load(self, device: torch.device) -> Checkpoint | None:
        """Load the newest, or with a warning the previous one if that is damaged; else None."""
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
        """Whether there is one, damaged or not."""
        return self.newest.exists() or self.previous.exists()

    def remove(self) -> None:
        """Remove both."""
        for path in (self.newest, self.previous):
            path.unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write a checkpoint and its checksum, atomically; move an earlier file to `keep`."""
    content = {**checkpoint._asdict(), "position": asdict(checkpoint.position)}

    def write(temporary: Path) -> None:
        # Python's file reports a full disk, torch's own writer does not.
        with temporary.open("wb+") as file:
            torch.save(content, file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(MARK + digest)

    write_atomically(path, write, keep=keep)


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint, without executing code in it; raise `RunError` if it is damaged."""
    # Several processes on CPUs have the device "cpu:0", to which torch cannot load.
    location = torch.device("cpu") if device.type == "cpu" else device
    expected = "a checkpoint that svdistill wrote"
    remedy = "start the run again in another directory"
    with reading(path, expected=expected, remedy=remedy, errors=_DAMAGE):
        content = torch.load(_whole(path), map_location=location, weights_only=True)
        position = TrainingPosition(**content["position"])
        return Checkpoint(position, content["states"], content["epoch_state"])


def _whole(path: Path) -> io.BytesIO:
    """The content of a file before its checksum, which is verified."""
    require_no_device(path)
    content = path.read_bytes()
    trailer = content[-TRAILER_BYTES:]
    if not trailer.startswith(MARK):
        raise ValueError("a file that is cut short, or is no checkpoint")
    file = io.BytesIO(content)
    file.truncate(len(content) - TRAILER_BYTES)
    if hashlib.sha256(file.getbuffer()).digest() != trailer[len(MARK) :]:
        raise ValueError("its checksum is wrong")
    return file
