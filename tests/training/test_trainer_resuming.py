"""A run that goes on within an epoch ends as one that was never stopped, bit for bit."""

import contextlib
import dataclasses
import random
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from picture_files import in_turn, noise, write_folder
from projecting_loss import ProjectingLoss
from svdistill.config import CacheConfig
from svdistill.data import images_from_loaders, load_images
from svdistill.data.image_files import EncodedPictures
from svdistill.runs.records import read_records
from svdistill.training import cache_knowledge, distill, train
from tiny_runs import (
    RANDOM,
    KillAtStep,
    Killed,
    Watching,
    distill_config,
    flipped,
    outcome,
    train_config,
)

ALWAYS = {"checkpoint_minutes": 1e-9}  # a checkpoint after every step


def steps_made(watching):
    return [told[0] for told in watching.told].count("step")


def same_when_killed(command, config, steps, **objects):
    """Whether a run killed in these steps, counted from each beginning, ends as a whole one.

    The step in which it is killed is made again, and no other one.
    """
    whole = dataclasses.replace(config, output=f"{config.output}-whole", checkpoint_minutes=0.0)
    watching = Watching()
    command(whole, watching, **built(objects))
    left = steps_made(watching)
    config = dataclasses.replace(config, **ALWAYS)
    for step in steps:
        with pytest.raises(Killed):
            command(config, KillAtStep(step), **built(objects))
        left -= step - 1
        config = dataclasses.replace(config, resume=True)
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    watching = Watching()
    command(config, watching, **built(objects))
    assert steps_made(watching) == left
    return outcome(config.output) == outcome(whole.output)


def built(objects):
    """Objects that a run changes, each time anew."""
    return {name: make() for name, make in objects.items()}


# Of 4 steps an epoch: in the last one of the first, with one before it saved; again and again.
@pytest.mark.parametrize("steps", [[4], [3, 3, 2]])
def test_the_task_with_dropout_views_and_a_schedule(tmp_path, steps):
    assert same_when_killed(train, train_config(tmp_path / "run", **RANDOM), steps)


@pytest.mark.parametrize("steps", [[2, 2, 3]])
def test_both_at_once_with_adapters_and_an_amortised_clip(tmp_path, teacher_run, steps):
    """Both gradients in every third step: the scale and its counter are kept."""
    config = distill_config(tmp_path / "run", teacher_run, width=0.2, clip_interval=3)
    assert same_when_killed(distill, config, steps)


def test_a_loss_with_modules_and_buffers_of_its_own(tmp_path, teacher_run):
    config = distill_config(tmp_path / "run", teacher_run, epochs=1)
    assert same_when_killed(distill, config, [3], loss=ProjectingLoss)


# Just after the stage has changed; within the first, and again within the second.
@pytest.mark.parametrize("steps", [[5], [3, 4]])
def test_two_stages(tmp_path, teacher_run, steps):
    config = distill_config(tmp_path / "run", teacher_run, transfer_epochs=1, epochs=1)
    assert same_when_killed(distill, config, steps)


def test_two_stages_with_a_soft_target(tmp_path, teacher_run):
    options = {"transfer_epochs": 1, "epochs": 1, "loss": "svd+soft_target", "clip_interval": 2}
    config = distill_config(tmp_path / "run", teacher_run, **options)
    assert same_when_killed(distill, config, [6])


def test_from_a_store(tmp_path, teacher_run):
    fields = {"loss": "svd", "views": 2, "train_size": 200}
    store = CacheConfig(output=str(tmp_path / "store"), teacher=str(teacher_run), **fields)
    cache_knowledge(store)
    options = {"knowledge": store.output, "augmentation": "paper"}
    assert same_when_killed(distill, distill_config(tmp_path / "run", "", **options), [3, 4])


def test_images_without_labels(tmp_path, teacher_run):
    options = {"train_size": 60, "unlabelled": "rest", "dev_fraction": 0.8, "augmentation": "paper"}
    config = distill_config(tmp_path / "run", teacher_run, **options)
    assert same_when_killed(distill, config, [3, 2])


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 30), ("test", 6)):
        write_folder(tmp_path / "images" / split, noise(count, size=16), in_turn(count))
    return {
        "data": f"folder:{tmp_path / 'images'}",
        "train_size": None,
        "batch_size": 8,
        "memory_limit_gb": 1e-9,
        "augmentation": "paper",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images(tmp_path, folder, workers):
    assert same_when_killed(train, train_config(tmp_path / "run", workers=workers, **folder), [3])


def test_images_of_the_steps_before_are_not_decoded_again(tmp_path, folder, monkeypatch):
    read, rows = EncodedPictures.read, []

    def counting(pictures, numbers):
        rows.extend(numbers)
        return read(pictures, numbers)

    monkeypatch.setattr(EncodedPictures, "read", counting)
    config = train_config(tmp_path / "run", workers=0, epochs=1, **ALWAYS, **folder)
    counts = []
    for reporter in (KillAtStep(4), Watching()):
        rows.clear()
        with contextlib.suppress(Killed):
            train(dataclasses.replace(config, resume=bool(counts)), reporter)
        counts.append(len(rows))
    # Both look at some images first. Then 4 batches of 8, and a batch of the 6 that are left with
    # the 6 test images.
    assert counts[0] - 30 == counts[1] - 6 - 6


def test_what_is_decoded_may_lie_elsewhere_when_a_run_goes_on(tmp_path, folder):
    """A machine with less memory streams them; the numbers are the same."""
    config = train_config(tmp_path / "run", workers=0, **folder)
    train(dataclasses.replace(config, output=str(tmp_path / "whole"), memory_limit_gb=1.0))
    with pytest.raises(Killed):
        train(dataclasses.replace(config, memory_limit_gb=1.0, **ALWAYS), KillAtStep(2))
    train(dataclasses.replace(config, resume=True))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def loaders():
    digits = load_images("digits")
    pairs = []
    for split, count in ((digits.train, 200), (digits.test, 100)):
        pairs.append(TensorDataset(split.images[:count].float() / 255, split.labels[:count]))
    shuffled = DataLoader(pairs[0], batch_size=50, shuffle=True)
    return images_from_loaders(shuffled, DataLoader(pairs[1], batch_size=64), digits.class_names)


def test_a_loader_makes_the_batches_before_once_more(tmp_path):
    config = train_config(tmp_path / "run", train_size=None)
    assert same_when_killed(train, config, [3, 3], data=loaders)


class Moody(nn.Module):
    """Draws from every generator that there is."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10))

    def forward(self, images):
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return self.body(images) * (1 + noise if self.training else 1)


def moody():
    torch.manual_seed(5)
    return Moody()


def test_whatever_a_network_draws_from(tmp_path):
    assert same_when_killed(train, train_config(tmp_path / "run", width=1.0), [3, 3], network=moody)


def test_from_the_checkpoint_before_a_damaged_one(tmp_path, teacher_run):
    """Bit for bit too: metrics and weights of what it does not hold come again."""
    config = distill_config(tmp_path / "run", teacher_run)
    distill(dataclasses.replace(config, output=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        distill(dataclasses.replace(config, **ALWAYS), KillAtStep(5))
    newest = tmp_path / "run" / "checkpoint.pt"  # of the first epoch's end
    assert len(read_records(tmp_path / "run")) == 1
    newest.write_bytes(flipped(newest.read_bytes(), 3000))
    watching = Watching()
    with pytest.warns(RuntimeWarning, match="is damaged or missing: going on from"):
        distill(dataclasses.replace(config, resume=True), watching)
    assert ("start", "run", 8, 4) in watching.told  # its last step is done, it is not evaluated
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_minutes_of_zero_save_at_the_ends_of_epochs_only(tmp_path):
    config = train_config(tmp_path / "run", checkpoint_minutes=0.0)
    with pytest.raises(Killed):
        train(config, KillAtStep(4))
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_times_go_on_and_are_never_negative(tmp_path, monkeypatch):
    """A clock on the wall that jumps back changes nothing."""
    wall = iter(range(10**9, 0, -(10**5)))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    config = train_config(tmp_path / "run", **ALWAYS)
    with pytest.raises(Killed):
        train(config, KillAtStep(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = train(dataclasses.replace(config, resume=True))
    records = read_records(tmp_path / "run")
    assert all(0 <= record.loading_seconds <= record.seconds for record in records)
    assert summary.seconds == pytest.approx(sum(record.seconds for record in records))
