"""Runs on what DataLoaders of the user's own yield."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from svdistill.common.errors import ArgumentError
from svdistill.config import CacheConfig
from svdistill.data import UNLABELLED, images_from_loaders, load_images
from svdistill.runs.records import read_records
from svdistill.runs.weights import read_card
from svdistill.training import cache_knowledge, distill, train
from tiny_runs import KillAfter, Killed, Watching, distill_config, outcome, train_config, weights

MEAN, STD = (0.25, 0.25, 0.25), (0.5, 0.5, 0.5)
# What reads a data set by name says nothing where the images are given.
GIVEN = {"data": "digits", "train_size": None}


def loaders(batch_size=50, images=200, unlabelled=0):
    digits = load_images("digits")
    pairs = []
    for split, count in ((digits.train, images), (digits.test, 100)):
        floats = (split.images[:count].float() / 255 - MEAN[0]) / STD[0]
        pairs.append(TensorDataset(floats, split.labels[:count].clone()))
    pairs[0].tensors[1][:unlabelled] = UNLABELLED
    train_loader = DataLoader(pairs[0], batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(pairs[1], batch_size=64)
    return images_from_loaders(train_loader, test_loader, digits.class_names, mean=MEAN, std=STD)


def test_a_network_learns_from_a_loader(tmp_path):
    watching = Watching()
    config = train_config(tmp_path / "run", **GIVEN)
    summary = train(config, watching, data=loaders())
    assert ("start", "run", 2 * 4, 0) in watching.told  # the loader's batches, not the config's
    assert len(read_records(tmp_path / "run")) == 2
    assert summary.epochs == 2
    card = read_card(tmp_path / "run" / "student.safetensors")
    assert (card.mean, card.std, card.image_size) == (MEAN, STD, 16)


def test_equal_runs_are_equal_and_a_stopped_one_goes_on(tmp_path):
    for name in "ab":
        torch.rand(7)
        train(train_config(tmp_path / name, **GIVEN), data=loaders())
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    config = train_config(tmp_path / "c", **GIVEN)
    with pytest.raises(Killed):
        train(config, KillAfter(1), data=loaders())
    train(dataclasses.replace(config, resume=True), data=loaders())
    assert outcome(tmp_path / "c") == outcome(tmp_path / "a")


def test_a_student_learns_from_a_loader_without_all_labels(tmp_path, teacher_run):
    config = distill_config(tmp_path / "run", teacher_run, **GIVEN, epochs=1)
    distill(config, data=loaders(unlabelled=120))
    (record,) = read_records(tmp_path / "run")
    assert record.transfer_loss > 0
    assert record.task_loss > 0
    assert record.train_accuracy / 100 * 80 == pytest.approx(round(record.train_accuracy * 0.8))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_mistakes_in_a_loader_are_found_before_anything_is_written(tmp_path):
    data = loaders()
    wrong = DataLoader(TensorDataset(torch.rand(4, 3, 16, 16), torch.rand(4)), batch_size=2)
    with pytest.raises(ArgumentError, match=r"loader: expected int64 of shape \[2\] for labels"):
        train(
            train_config(tmp_path / "run", **GIVEN),
            data=images_from_loaders(wrong, data.test._loader, data.class_names),
        )
    assert not (tmp_path / "run").exists()


def cache_config(output, teacher):
    return CacheConfig(output=str(output), teacher=str(teacher), views=1)


def test_no_knowledge_store_is_made_of_a_loader(tmp_path, teacher_run):
    with pytest.raises(
        ArgumentError, match=r"data: expected images in an order that stays, .*store"
    ):
        cache_knowledge(cache_config(tmp_path / "store", teacher_run), data=loaders())
    assert not (tmp_path / "store").exists()


def test_but_of_other_images_that_are_given(tmp_path, teacher_run):
    data = load_images("digits", train_size=20)
    store = cache_knowledge(cache_config(tmp_path / "store", teacher_run), data=data)
    assert (store.manifest.images, store.manifest.data) == (20, "object")
    assert store.manifest.data_fingerprint == data.fingerprint
