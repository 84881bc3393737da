"""Checkpoints of a run: one file each, with a checksum.

A checkpoint file is the output of `torch.save`, followed by its SHA-256. The last two checkpoints
are kept, so that an intact one always exists.
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
        stage: index of the current training stage (2-stage training has two).
        epoch: number of finished epochs of the current stage.
        total: number of finished epochs of all stages.
        best_epoch: the best finished epoch, counted from 0 over all stages; -1 before the first.
        best_score: accuracy of the best epoch on the split by which it is chosen.
        best_accuracy: accuracy of the best epoch on the test split.
        last_accuracy: accuracy of the last finished epoch on the test split.
        seconds: time spent so far.
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
        """The position after one more epoch with this accuracy and duration."""
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
    """The content of a checkpoint: position and states of a run.

    Attributes:
        position: how many epochs are finished.
        states: state dictionaries of network, optimizer and so on.
        epoch_state: `EpochState.state_dict()` if saved within an epoch; None between two epochs.
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
        """Write a checkpoint in rank 0, and keep the newest so far as the previous if intact."""
        if is_main():
            save_checkpoint(self.newest, checkpoint, None if self._damaged else self.previous)
            self._damaged = False

    def load(self, device: torch.device) -> Checkpoint | None:
        """Load the newest checkpoint; None if there is none.

        If the newest is damaged or missing, warn and load the previous one.
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
        """Whether there is a checkpoint file, damaged or not."""
        return self.newest.exists() or self.previous.exists()

    def remove(self) -> None:
        """Remove both checkpoint files."""
        for path in (self.newest, self.previous):
            path.unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write a checkpoint and its checksum, atomically; move an earlier file to `keep`."""
    content = {**checkpoint._asdict(), "position": asdict(checkpoint.position)}

    def write(temporary: Path) -> None:
        # Writing to a Python file raises an error if the disk is full; torch's own writer does not.
        with temporary.open("wb+") as file:
            torch.save(content, file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(MARK + digest)

    write_atomically(path, write, keep=keep)


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint, without executing code in it; raise `RunError` if it is damaged."""
    # With several processes on CPUs the device is "cpu:0", which torch.load does not accept.
    location = torch.device("cpu") if device.type == "cpu" else device
    expected = "a checkpoint that svdistill wrote"
    remedy = "start the run again in another directory"
    with reading(path, expected=expected, remedy=remedy, errors=_DAMAGE):
        content = torch.load(_whole(path), map_location=location, weights_only=True)
        position = TrainingPosition(**content["position"])
        return Checkpoint(position, content["states"], content["epoch_state"])


def _whole(path: Path) -> io.BytesIO:
    """Read a file, verify the checksum at its end, and return the content before it."""
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
