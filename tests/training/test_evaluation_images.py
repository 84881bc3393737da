"""The test images of a run, in the classes of its network."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from picture_files import in_turn, noise, write_folder
from svdistill.common.errors import ArgumentError, DataError, RunError
from svdistill.data import NoAugmentation, StreamedSplit, load_images, opening
from svdistill.runs import load_student
from svdistill.runs.weights import read_card, save_weights
from svdistill.training import evaluation as evaluation_images, train
from svdistill.training.evaluation import load_test_images
from tiny_runs import train_config


@pytest.fixture(scope="module")
def chosen_run(tmp_path_factory):
    """A run on the digits 0, 3, 6 and 9."""
    output = tmp_path_factory.mktemp("runs") / "chosen"
    train(train_config(output, classes_every=3, epochs=1, image_size=8))
    return output


def everything(images):
    """The images of a split, or of one with its normalisation."""
    split = getattr(images, "split", images)
    return next(split.batches(len(split), device="cpu", order_seed=None))


def assert_same(split, other):
    batch, expected = everything(split), everything(other)
    assert torch.equal(batch.images, expected.images)
    assert torch.equal(batch.labels, expected.labels)


@pytest.mark.parametrize("data", [None, "digits"])
def test_the_classes_that_the_network_knows(chosen_run, data):
    own = load_images("digits", classes_every=3, image_size=8).test
    assert_same(load_test_images(chosen_run, data), own)
    assert_same(load_test_images(chosen_run / "student-best.safetensors", data), own)


def test_labels_are_as_the_network_counts(chosen_run, tmp_path):
    card = read_card(chosen_run / "student.safetensors")
    names = ("9", "0", "6", "3")
    turned = tmp_path / "turned.safetensors"
    save_weights(turned, load_student(chosen_run), replace(card, class_names=names))
    found = everything(load_test_images(turned, "digits"))
    expected = everything(load_images("digits", image_size=8, classes_every=3).test)
    assert torch.equal(found.images, expected.images)
    assert [names[label] for label in found.labels] == [
        card.class_names[label] for label in expected.labels
    ]


def test_some_of_each_class(chosen_run):
    some, again, all_of_them, more = (
        load_test_images(chosen_run, count=count).split for count in (20, 20, None, 10_000)
    )
    assert some.labels.bincount().tolist() == [5, 5, 5, 5]
    assert_same(some, again)
    assert len(all_of_them) == len(more) > 20


def test_many_images_are_streamed(chosen_run, monkeypatch):
    resident = load_test_images(chosen_run, count=5)
    monkeypatch.setattr(evaluation_images, "RESIDENT_BYTES", 10)
    streamed = load_test_images(chosen_run, count=5)
    assert isinstance(streamed.split, StreamedSplit)
    assert_same(streamed, resident)


def test_images_that_are_given(chosen_run):
    own = load_images("digits", classes_every=3, image_size=8)
    split, augmentation = load_test_images(chosen_run, own)
    assert split is own.test
    card = read_card(chosen_run / "student.safetensors")
    assert augmentation.mean.flatten().tolist() == pytest.approx(card.mean)
    assert isinstance(load_test_images(chosen_run, replace(own, prepared=True))[1], NoAugmentation)
    with pytest.raises(ArgumentError, match=r"network's 4 classes.*got 10"):
        load_test_images(chosen_run, load_images("digits"))


def test_data_without_its_classes(chosen_run, tmp_path):
    card = read_card(chosen_run / "student.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    names = ("0", "ant", "bee", "9")
    save_weights(foreign, load_student(chosen_run), replace(card, class_names=names))
    with pytest.raises(RunError, match="4 classes among the data's 10, got none named 'ant' and"):
        load_test_images(foreign, "digits")


def test_data_whose_test_images_are_of_other_classes(chosen_run, tmp_path):
    write_folder(tmp_path / "train", noise(9), in_turn(9))
    write_folder(tmp_path / "test", noise(4), [0] * 4)
    card = read_card(chosen_run / "student.safetensors")
    lone = tmp_path / "lone.safetensors"
    save_weights(lone, load_student(chosen_run), replace(card, class_names=("cat", "bee")))
    with pytest.raises(RunError, match="test images of the network's classes, got none"):
        load_test_images(lone, f"folder:{tmp_path}")


def test_data_that_is_elsewhere_now(chosen_run, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(chosen_run, moved)
    stored = yaml.safe_load((moved / "config.yaml").read_text())
    (moved / "config.yaml").write_text(yaml.safe_dump({**stored, "data": "folder:not/here"}))
    with pytest.raises(DataError, match=r"folder:not/here.* give --data if"):
        load_test_images(moved)


def test_weights_that_say_nothing_of_data(chosen_run, tmp_path):
    lone = tmp_path / "lone.safetensors"
    shutil.copy(chosen_run / "student.safetensors", lone)
    with pytest.raises(ArgumentError, match=r"no config.yaml beside the weights.*give --data"):
        load_test_images(lone)
    save_file(load_file(lone), lone)
    with pytest.raises(RunError, match="names no classes"):
        load_test_images(lone, "digits")


@pytest.mark.parametrize("named", [True, False])
def test_the_splits_that_a_run_chose(chosen_run, tmp_path, named):
    names = ("0", "3", "6", "9")
    for split, count in (("fit", 8), ("heldback", 4)):
        write_folder(tmp_path / "it" / split, noise(count), [*range(4)] * (count // 4), names)
    run, data = tmp_path / "run", f"folder:{tmp_path / 'it'}"
    shutil.copytree(chosen_run, run)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored |= {"data": data, "train_split": "fit", "test_split": "heldback"}
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    assert len(load_test_images(run, data if named else None).split) == 4


def test_the_hub_is_asked_for_no_name_that_a_run_directory_holds(chosen_run, tmp_path, monkeypatch):
    run = shutil.copytree(chosen_run, tmp_path / "run")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**stored, "data": "hub:someone/images"}))
    monkeypatch.setattr(opening, "read_hub", lambda _: pytest.fail("the hub was asked"))
    with pytest.raises(ArgumentError, match=r"consent to fetch hub:someone/images.*give --data"):
        load_test_images(run)
