"""The records of a run: its epochs, its summary and its environment."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from svdistill.common import Finite, from_plain, read_plain, read_text, reading
from svdistill.parallel import size

# Values in environment.json.
Fact = str | float | int | bool | None
Facts = dict[str, Fact | dict[str, Fact]]

PACKAGES: Final = ("svdistill", "torch", "numpy", "accelerate", "datasets", "safetensors")


@dataclass(frozen=True)
class EpochRecord:
    """The record of an epoch, one line of metrics.jsonl.

    A value is None if the training stage does not compute it, or if there is no such split. Losses
    are means over images, norms are means over steps; a step that does not measure norms counts
    with the last measured norms. Accuracies are percentages. Images without a label count in the
    transfer loss alone.

    Attributes:
        svd_missed: share of the SVDs by subspace iteration that did not reach the error bound.
        svd_close: share of the differentiated SVDs with singular values so close to each other, or
            to zero, that the gradient was damped.
        loading_seconds: time that the training device waited for images.
        skipped_steps: steps whose gradients overflowed in fp16 and changed no weights; their norms
            count in no mean.
    """

    stage: str
    epoch: int
    learning_rate: float
    task_loss: float
    transfer_loss: float | None
    train_accuracy: float
    dev_accuracy: float | None
    test_accuracy: float
    test_loss: float
    task_norm: float | None
    transfer_norm: float | None
    clipped_norm: float | None
    images_per_second: float
    seconds: float
    svd_missed: float | None = None
    svd_close: float | None = None
    loading_seconds: float | None = None
    skipped_steps: int = 0

    def numbers(self) -> dict[str, float]:
        """The values to log: all numbers but `epoch`."""
        return {
            name: value
            for name, value in asdict(self).items()
            if isinstance(value, (int, float)) and name != "epoch"
        }


@dataclass(frozen=True)
class RunSummary:
    """Results of a finished run. Accuracies are percentages on the test split.

    Attributes:
        directory: the run directory.
        kind: `train` or `distill`.
        network, width: name of the trained network, and the factor on its channels.
        loss: name of the transfer loss; None for `train`.
        seed: seed of the run.
        last_accuracy: accuracy after the last epoch.
        best_accuracy: accuracy after the best epoch, chosen on the split named by `best_by`.
        best_epoch: the best epoch, counted from 1 over all stages.
        best_by: `dev` or `test`; an accuracy whose epoch was chosen by `test` is optimistic.
        teacher_accuracy: the teacher's accuracy on the same images.
        parameters, flops: the network's number of parameters, and its FLOPs (2 x multiply-adds) for
            one image.
        epochs: number of epochs over all stages.
        seconds: time spent in training and evaluation, over all resumptions.
        num_classes, image_size: number of classes, and side of the images in pixels.
        skipped_steps: number of steps skipped because their gradients overflowed in fp16.
    """

    directory: str
    kind: str
    network: str
    width: Finite
    loss: str | None
    seed: int
    last_accuracy: float
    best_accuracy: float
    best_epoch: int
    best_by: str
    teacher_accuracy: float | None
    parameters: int
    flops: int
    epochs: int
    seconds: Finite
    num_classes: int
    image_size: int
    skipped_steps: int = 0


def read_environment(file: Path) -> dict[str, Any]:
    """Read a run's environment.json; raise `RunError` if it cannot be read."""
    return read_plain(
        file,
        Facts,
        expected="the environment of a run",
        remedy="check that the path is a run directory",
    )


def read_summary(path: str | Path) -> RunSummary:
    """Read the summary of a finished run; raise `RunError` if it cannot be read.

    Its `directory` is set to `path`, since the run may have been moved.
    """
    file = Path(path) / "summary.json"
    summary = read_plain(file, RunSummary, expected="the summary of a run", remedy="run it again")
    return replace(summary, directory=str(path))


def read_records(path: str | Path) -> list[EpochRecord]:
    """Read the metrics.jsonl of a run; raise `RunError` if it is missing or damaged."""
    file = Path(path) / "metrics.jsonl"
    remedy = "check that the path is a run directory"
    with reading(file, expected="one JSON object a line, each an epoch", remedy=remedy):
        lines = read_text(file).splitlines()
        return [from_plain(EpochRecord, json.loads(line)) for line in lines]


def skipped_steps(path: str | Path) -> int:
    """Number of a run's steps that fp16's scaler skipped."""
    return sum(record.skipped_steps for record in read_records(path))


def environment() -> dict[str, Any]:
    """The facts for environment.json: machine, package versions, threads and processes."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "threads": torch.get_num_threads(),
        "processes": size(),
        "packages": dict(_versions()),
    }


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Names and versions of `PACKAGES`; cached, since reading their metadata is slow."""
    return tuple((name, version(name)) for name in PACKAGES)
