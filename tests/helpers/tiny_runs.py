"""Runs that take half a second, and ways to look at what they leave."""

import dataclasses
from pathlib import Path

from safetensors.torch import load_file

from svdistill.config import DistillConfig, TrainConfig
from svdistill.runs.records import EpochRecord, RunSummary, read_records, read_summary
from svdistill.training.progress import Reporter

TINY = {
    "data": "digits",
    "network": "mobilenet_student",
    "width": 0.1,
    "train_size": 200,
    "augmentation": "none",
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.05,
    # What is simple to write by hand.
    "schedule": "paper",
    "weight_decay": 1e-4,
    "max_grad_norm": None,
}
# Dropout, random views, an optimizer with much state and a schedule that depends on the step.
RANDOM = {
    "network": "vgg_student",
    "width": 0.05,
    "augmentation": "paper",
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "schedule": "one_cycle",
    "max_grad_norm": 1.0,
    "dev_fraction": 0.2,
}
# What two equal runs may differ in.
CLOCK = ("seconds", "images_per_second", "loading_seconds")


def train_config(output, **changes):
    return TrainConfig(output=str(output), **{**TINY, **changes})


def distill_config(output, teacher, **changes):
    fields = {**TINY, "loss": "svd", **changes}
    return DistillConfig(output=str(output), teacher=str(teacher), **fields)


def snapshot(directory):
    """Every file of a directory, by its path, as bytes."""
    root = Path(directory)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def outcome(directory):
    """All that a run has found out: weights, as bytes, and numbers, without the clock's."""
    run = Path(directory)
    records = [dataclasses.asdict(record) for record in read_records(run)]
    summary = dataclasses.asdict(read_summary(run))
    for numbers in (*records, summary):
        for name in (*CLOCK, "directory"):
            numbers.pop(name, None)
    files = [
        (run / name).read_bytes() for name in ("student.safetensors", "student-best.safetensors")
    ]
    return files, records, summary


def weights(directory, name="student.safetensors"):
    return load_file(Path(directory) / name)


class Killed(BaseException):
    """What ends a run in the tests; no `except Exception` on the way may stop it."""


class KillAfter(Reporter):
    """Ends a run after so many epochs, when the last of them is saved."""

    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, record):
        if record.epoch + 1 == self.epochs:
            raise Killed


class KillAtStep(Reporter):
    """Ends a run in the middle of an epoch."""

    def __init__(self, steps):
        self.steps = steps

    def step(self, meter):
        self.steps -= 1
        if self.steps == 0:
            raise Killed


class Watching(Reporter):
    """Notes what a reporter is told."""

    def __init__(self):
        self.told = []

    def message(self, text):
        self.told.append(("message", text))

    def start(self, name, total_steps, done_steps, evaluations=0.0):
        self.told.append(("start", name, total_steps, done_steps))

    def step(self, meter):
        self.told.append(("step", meter.mean_task_loss(), meter.train_accuracy()))

    def epoch(self, record):
        self.told.append(("epoch", record.stage, record.epoch))


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def flipped(content, place):
    """The bytes with one bit of them turned over."""
    damaged = bytearray(content)
    damaged[place] ^= 1 << (place % 8)
    return bytes(damaged)


SUMMARY = RunSummary(
    "elsewhere",
    "train",
    "vgg_student",
    1.0,
    None,
    0,
    60.0,
    61.0,
    3,
    "dev",
    None,
    10,
    20,
    5,
    1.5,
    7,
    32,
)


def record(epoch):
    """What a run of the task alone records of an epoch."""
    return EpochRecord(
        "task", epoch, 0.1, 2.0, None, 30.0, None, 31.0, 2.1, None, None, None, 1e3, 2.0
    )
