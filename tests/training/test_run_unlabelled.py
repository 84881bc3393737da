"""Runs on images of which some have no labels."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import CacheConfig, DistillConfig
from svdistill.data import UNLABELLED, MixedSplit, load_images
from svdistill.distillation.distiller import Distiller
from svdistill.losses import SVDLoss
from svdistill.networks import build_network
from svdistill.runs import load_student
from svdistill.runs.records import read_records
from svdistill.runs.weights import read_card, weights_file
from svdistill.training import cache_knowledge, distill, train
from svdistill.training.reproducibility import derive_seed
from svdistill.training.step import TaskStep, TransferStep
from tiny_runs import (
    KillAfter,
    Killed,
    Watching,
    distill_config,
    outcome,
    train_config,
    weights,
)

# 60 labelled digits, and the rest of 216 without their labels.
SIZES = {"train_size": 60, "unlabelled": "rest", "dev_fraction": 0.8}


def mixed_digits():
    data = load_images("digits", **SIZES)
    assert isinstance(data.train, MixedSplit)
    return data


def test_is_the_loop_that_one_would_write_by_hand(tmp_path, teacher_run):
    fields = {**SIZES, "epochs": 1, "schedule": "constant"}
    distill(distill_config(tmp_path / "run", teacher_run, **fields))

    torch.manual_seed(derive_seed(0, "weights"))
    student = build_network("mobilenet_student", 10, 0.1)
    teacher, card = load_student(teacher_run), read_card(weights_file(teacher_run))
    distiller = Distiller(teacher, student, SVDLoss(), taps=student.tap_paths, weight_decay=1e-4)
    distiller.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (card.mean, card.std))
    accurate, losses, transfers, seen = 0, 0.0, 0.0, 0
    split = mixed_digits().train
    for batch in split.batches(64, device="cpu", order_seed=derive_seed(0, "order", 0, 0)):
        labelled = batch.labels != UNLABELLED
        images = (batch.images.float() / 255 - mean) / std
        out = distiller(images.contiguous(memory_format=torch.channels_last))
        task_loss = F.cross_entropy(out.logits[labelled], batch.labels[labelled])
        distiller.backward(task_loss, out, progress=0)
        optimizer.step()
        optimizer.zero_grad()
        accurate += int((out.logits.argmax(1) == batch.labels)[labelled].sum())
        losses += task_loss.item() * int(labelled.sum())
        transfers += out.transfer_loss.item() * len(labelled)
        seen += int(labelled.sum())
    for name, expected in student.state_dict().items():
        found = weights(tmp_path / "run")[name]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)
    (record,) = read_records(tmp_path / "run")
    assert seen == 156  # as many as there are unlabelled ones
    assert record.train_accuracy == pytest.approx(100 * accurate / seen)
    assert record.task_loss == pytest.approx(losses / seen, rel=1e-4)
    assert record.transfer_loss == pytest.approx(transfers / (2 * 156), rel=1e-4)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory, teacher_run):
    """First the transfer of all images, then the task of those with labels."""
    output = tmp_path_factory.mktemp("runs") / "mixed"
    distill(mixed_config(output, teacher_run))
    return output


def mixed_config(output, teacher, **changes):
    fields = {**SIZES, "augmentation": "crop_flip", "transfer_epochs": 1}
    return distill_config(output, teacher, **{**fields, **changes})


def test_a_run_that_was_stopped_goes_on(tmp_path, teacher_run, mixed_run):
    config = mixed_config(tmp_path / "run", teacher_run)
    with pytest.raises(Killed):
        distill(config, KillAfter(1))
    distill(dataclasses.replace(config, resume=True, workers=1))
    assert outcome(tmp_path / "run") == outcome(mixed_run)


def test_a_stage_of_the_task_alone_sees_labelled_images_alone(tmp_path, teacher_run, monkeypatch):
    seen = {TransferStep: [], TaskStep: []}

    def watched(kind, call):
        def watching(step, batch, *rest):
            seen[kind].append(batch.labels)
            return call(step, batch, *rest)

        return watching

    for kind in seen:
        monkeypatch.setattr(kind, "__call__", watched(kind, kind.__call__))
    watching = Watching()
    distill(mixed_config(tmp_path / "run", teacher_run), watching)
    assert [len(labels) for labels in seen[TransferStep]] == [64] * 4 + [56]
    assert [int((labels >= 0).sum()) for labels in seen[TransferStep]] == [32] * 4 + [28]
    assert [len(labels) for labels in seen[TaskStep]] == [60, 60]
    assert ("start", "run", 5 + 2, 0) in watching.told


def test_repeated_images_are_shown_in_other_views(tmp_path, teacher_run, monkeypatch):
    views = []

    def watched(step, batch, *rest):
        views.append(batch.images)
        return call(step, batch, *rest)

    call = TransferStep.__call__
    monkeypatch.setattr(TransferStep, "__call__", watched)
    for count in (0, 1):
        config = mixed_config(tmp_path / str(count), teacher_run, batch_size=120, views=count)
        with pytest.raises(Killed):
            distill(config, KillAfter(1))
    # In each of three batches, the last one smaller, the same sixty come first.
    fresh, limited = views[:2], views[3:5]
    assert len({image.numpy().tobytes() for batch in fresh for image in batch[:60]}) > 100
    assert len({image.numpy().tobytes() for batch in limited for image in batch[:60]}) == 60


def test_a_store_may_hold_their_knowledge_too(tmp_path, teacher_run):
    fields = {"augmentation": "paper", **SIZES}
    options = {"loss": "svd", "views": 2, "dtype": "float32", **fields}
    store = CacheConfig(output=str(tmp_path / "store"), teacher=str(teacher_run), **options)
    assert cache_knowledge(store).manifest.images == 216
    shared = {"epochs": 2, **fields}
    distill(distill_config(tmp_path / "live", teacher_run, views=2, views_seed=0, **shared))
    stored = distill_config(tmp_path / "stored", "", knowledge=str(tmp_path / "store"), **shared)
    distill(stored)
    expected, found = weights(tmp_path / "live"), weights(tmp_path / "stored")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)
    with pytest.raises(RunError, match=r"train_size: expected 216 .*, got 60; .*and unlabelled"):
        distill(dataclasses.replace(stored, output=str(tmp_path / "other"), unlabelled=""))


def test_what_cannot_be(tmp_path, teacher_run):
    with pytest.raises(ArgumentError, match=r"unlabelled: expected nothing where .* no teacher"):
        train(train_config(tmp_path / "a", unlabelled="rest"))
    with pytest.raises(ArgumentError, match="unlabelled: expected one of folder:PATH"):
        distill(distill_config(tmp_path / "b", teacher_run, unlabelled="zip:digits"))
    with pytest.raises(ArgumentError, match="batch_size: expected an integer of at least 2"):
        distill(distill_config(tmp_path / "c", teacher_run, **SIZES, batch_size=1))
    assert not list(tmp_path.iterdir())
    assert DistillConfig(output="x").unlabelled == ""
