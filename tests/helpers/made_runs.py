"""Runs that were never trained, for tables and figures, and ways to look at a figure."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from svdistill.config import DistillConfig, TrainConfig
from svdistill.losses import unread_options
from svdistill.report.comparison import PairComparison, compare
from svdistill.report.runs import Run
from svdistill.runs import EpochRecord, RunSummary, environment

NUMBERS = {
    "stage": "both",
    "learning_rate": 0.1,
    "task_loss": 1.0,
    "transfer_loss": None,
    "train_accuracy": 50.0,
    "dev_accuracy": None,
    "test_loss": 1.0,
    "task_norm": None,
    "transfer_norm": None,
    "clipped_norm": None,
    "images_per_second": 1.0,
    "seconds": 1.0,
}


# The paper's protocol, and the weights and clip of its loss.
PAPER = {
    "epochs": 200,
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "schedule": "paper",
    "augmentation": "paper",
    "max_grad_norm": None,
}
PAPER_LOSS = {
    "clip": "norm",
    "task_weight": 1.0,
    "transfer_weight": 1.0,
    "soft_target_weight": 1.0,
}


def made_run(
    path: str,
    network: str = "vgg_student",
    accuracies: tuple[float, ...] = (10.0, 20.0),
    numbers: dict[str, float] | None = None,
    parameters: int = 1_000_000,
    flops: int = 2_000_000,
    teacher_accuracy: float | None = None,
    side: int = 32,
    num_classes: int = 10,
    **options: object,
) -> Run:
    """A run as if it had been read; with a `loss` among the options it was taught, as the paper."""
    kind = DistillConfig if "loss" in options else TrainConfig
    options = {**PAPER, **(PAPER_LOSS if "loss" in options else {}), **options}
    config = dataclasses.asdict(kind(output=path, network=network, **options).filled())
    if "loss" in options:
        config |= dict.fromkeys(unread_options(options["loss"]))  # as in a run's config.yaml
    records = tuple(
        EpochRecord(**{**NUMBERS, **(numbers or {}), "epoch": epoch, "test_accuracy": accuracy})
        for epoch, accuracy in enumerate(accuracies)
    )
    summary = RunSummary(
        directory=path,
        kind="distill" if "loss" in options else "train",
        network=network,
        width=config["width"],
        loss=config.get("loss"),
        seed=config["seed"],
        last_accuracy=accuracies[-1],
        best_accuracy=max(accuracies),
        best_epoch=len(accuracies),
        best_by="test",
        teacher_accuracy=teacher_accuracy,
        parameters=parameters,
        flops=flops,
        epochs=len(accuracies),
        seconds=1.0,
        num_classes=num_classes,
        image_size=side,
    )
    return Run(Path(path), config, environment(), summary, records)


def compared(*runs: Run) -> PairComparison:
    """The comparison of runs of one pair of networks."""
    (pair,) = compare(runs).pairs
    return pair


def written(run: Run) -> Path:
    """Write a made run as a run directory."""
    run.path.mkdir(parents=True)
    files = {
        "config.yaml": json.dumps(run.config),
        "environment.json": json.dumps(run.environment),
        "summary.json": json.dumps(dataclasses.asdict(run.summary)),
        "metrics.jsonl": "".join(
            json.dumps(dataclasses.asdict(record)) + "\n" for record in run.records
        ),
    }
    for name, text in files.items():
        (run.path / name).write_text(text)
    return run.path


def texts(svg: str) -> list[str]:
    """All text that a picture shows, in its order."""
    namespace = "{http://www.w3.org/2000/svg}"
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{namespace}text")]


def lines(svg: str, colour: str) -> list[np.ndarray]:
    """The lines of a colour that a picture shows, each as its points [n, 2], y upwards."""
    paths = [
        element.attrib["d"]
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
        if f"stroke: {colour.lower()}" in element.attrib.get("style", "").lower()
        and "fill: none" in element.attrib["style"]
        and "clip-path" in element.attrib
    ]
    points = [re.findall(r"[ML] (\S+) (\S+)", path) for path in paths]
    return [np.array(found, dtype=float) * [1, -1] for found in points]


def shows(line: np.ndarray, values: Sequence[float]) -> bool:
    """Whether a line's heights are the values, on some linear scale that grows upwards."""
    if len(line) != len(values):
        return False
    slope, offset = np.polyfit(values, line[:, 1], 1)
    return slope > 0 and np.allclose(slope * np.array(values) + offset, line[:, 1], atol=0.01)
