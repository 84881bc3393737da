import datasets
import numpy as np
import pytest
import torch
from datasets import DatasetDict
from PIL import Image

from picture_files import in_order, in_turn, noise, table, write_folder, write_parquet
from svdistill.common.errors import ArgumentError, DataError
from svdistill.data import (
    UNLABELLED,
    DataChoices,
    DataWarning,
    MixedSplit,
    ResidentSplit,
    StreamedSplit,
    load_images,
)
from svdistill.data.unlabelled import open_unlabelled

IMAGES, LABELS = noise(30), in_turn(30)
MORE = noise(7, seed=1)


def write_flat(root, images):
    """Image files side by side, without folders of classes."""
    root.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / f"{number:03}.png")
    return root


def found(spec, image_size=None):
    part = open_unlabelled(spec, image_size)
    assert part.labels.dtype == np.int64
    assert part.labels.tolist() == [UNLABELLED] * len(part.rows)
    return part.pictures.read(part.rows).transpose(0, 2, 3, 1)


@pytest.fixture
def insects(tmp_path):
    write_parquet(tmp_path / "insects" / "train-0.parquet", IMAGES, LABELS)
    write_parquet(tmp_path / "insects" / "test-0.parquet", IMAGES[:6], LABELS[:6])
    return f"parquet:{tmp_path / 'insects'}"


# Where they come from


def test_a_flat_folder(tmp_path):
    assert np.array_equal(found(f"folder:{write_flat(tmp_path, MORE)}"), MORE)
    (tmp_path / "notes.txt").write_text("no image")
    assert found(f"folder:{tmp_path}", 10).shape == (7, 10, 10, 3)


def test_files_in_any_depth(tmp_path):
    write_flat(tmp_path / "a" / "b", MORE[:3])
    write_flat(tmp_path / "c", MORE[3:])
    assert np.array_equal(found(f"folder:{tmp_path}"), MORE)


@pytest.mark.parametrize("name", ["train", "unlabeled", "unlabelled"])
def test_a_folder_with_a_test_part_gives_its_training_part(tmp_path, name):
    write_flat(tmp_path / name, MORE)
    write_flat(tmp_path / "test", IMAGES[:2])
    assert np.array_equal(found(f"folder:{tmp_path}"), MORE)


def test_a_folder_of_that_name_alone_may_be_anything(tmp_path):
    write_flat(tmp_path / "car", MORE[:3])
    write_flat(tmp_path / "train", MORE[3:])
    assert np.array_equal(found(f"folder:{tmp_path}"), MORE)


@pytest.mark.parametrize("labelled", [True, False])
def test_parquet_with_labels_or_without(tmp_path, labelled):
    rows = table(MORE, [0] * 7)
    rows = rows if labelled else rows.remove_columns("label")
    rows.to_parquet(tmp_path / "train-0.parquet")
    assert np.array_equal(found(f"parquet:{tmp_path}"), MORE)


def test_labels_that_are_missing_or_wrong_do_not_matter(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", MORE, [None, -1, 0, 1, 2, 0, 1])
    assert np.array_equal(found(f"parquet:{path}"), MORE)


def test_the_split_that_says_so_comes_before_the_one_to_train_on(monkeypatch):
    splits = DatasetDict(train=table(IMAGES, LABELS), unlabeled=table(MORE, [0] * 7))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    assert np.array_equal(found("hub:someone/insects"), MORE)
    del splits["unlabeled"]
    splits["test"] = splits["train"].select(range(3))
    assert np.array_equal(found("hub:someone/insects"), IMAGES)


def test_tables_that_are_loaded_already():
    rows = table(MORE, [0] * 7).remove_columns("label")
    assert np.array_equal(found(rows), MORE)
    assert np.array_equal(found(DatasetDict(train=rows)), MORE)
    assert np.array_equal(found(rows.select([4, 2])), MORE[[4, 2]])


# Test images are not learnt from


@pytest.mark.parametrize("names", [("Train", "Test"), ("training_set", "Val"), ("more", "eval")])
def test_a_folder_of_a_test_split_is_left_out(tmp_path, names):
    write_flat(tmp_path / names[0] / "ant", MORE)
    write_flat(tmp_path / names[1] / "ant", IMAGES[:2])
    with pytest.warns(DataWarning, match=rf"of other splits with 2 image.*\('{names[1]}'\)"):
        assert np.array_equal(found(f"folder:{tmp_path}"), MORE)


def test_folders_that_may_be_splits_are_refused(tmp_path):
    for name in ("my_train", "my_test"):
        write_flat(tmp_path / name, MORE)
    with pytest.raises(DataError, match=r"expected folders named train and test.*'my_test'"):
        found(f"folder:{tmp_path}")


@pytest.mark.parametrize("names", [("Train", "TEST"), ("data_train", "data_eval")])
def test_a_table_of_a_test_split_is_left_out(tmp_path, names):
    write_parquet(tmp_path / f"{names[0]}.parquet", MORE, [0] * 7)
    write_parquet(tmp_path / f"{names[1]}.parquet", IMAGES, LABELS)
    assert np.array_equal(found(f"parquet:{tmp_path}"), MORE)
    splits = {names[0]: table(MORE, [0] * 7), names[1]: table(IMAGES, LABELS)}
    assert np.array_equal(found(DatasetDict(splits)), MORE)
    with pytest.raises(DataError, match="expected a split named 'unlabeled' or 'train'"):
        found(DatasetDict({names[1]: table(IMAGES, LABELS)}))


def test_the_split_that_was_chosen_to_test_on_is_left_out(tmp_path):
    write_folder(tmp_path / "train", IMAGES, LABELS)
    write_folder(tmp_path / "heldback", MORE, LABELS[:7])
    spec = f"folder:{tmp_path}"
    data = load_images(spec, test_split="heldback", unlabelled=spec)
    assert len(data.train) == 2 * len(IMAGES)
    splits = DatasetDict(heldback=table(MORE, LABELS[:7]))
    with pytest.raises(DataError, match="expected a split named 'unlabeled' or 'train'"):
        open_unlabelled(splits, None, DataChoices(test_split="HeldBack"))


def test_images_of_which_a_test_split_is_cut_are_no_other_images(tmp_path):
    spec = f"folder:{write_folder(tmp_path, IMAGES, LABELS)}"
    for same in (spec, f"folder:{tmp_path}/../{tmp_path.name}/"):
        with pytest.raises(ArgumentError, match="unlabelled: expected other images than those of"):
            load_images(spec, unlabelled=same)
    path = write_parquet(tmp_path / "b" / "train.parquet", IMAGES, LABELS)
    with pytest.raises(ArgumentError, match="unlabelled: expected other images than those of"):
        load_images(f"parquet:{path.parent}", unlabelled=f"parquet:{path}")


def test_test_images_are_not_learnt_from_through_a_link(tmp_path):
    for split in ("train", "test"):
        write_folder(tmp_path / "a" / split, IMAGES[:6], LABELS[:6])
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "0.png").hardlink_to(tmp_path / "a" / "test" / "ant" / "000.png")
    options = {"unlabelled": f"folder:{tmp_path / 'more'}"}
    with pytest.warns(DataWarning, match="1 of 6 test images are in unlabelled too"):
        load_images(f"folder:{tmp_path / 'a'}", **options)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "test")
    with pytest.raises(DataError, match="the same files to test on and in the unlabelled split"):
        load_images(f"folder:{tmp_path / 'a'}", unlabelled=f"folder:{tmp_path / 'link'}")


# As part of a data set


def test_every_batch_of_the_training_images_carries_both(insects, tmp_path):
    more = write_flat(tmp_path / "more", MORE)
    data = load_images(insects, unlabelled=f"folder:{more}")
    assert isinstance(data.train, MixedSplit)
    assert len(data.train) == 37
    images, labels = in_order(data.train)
    assert np.array_equal(images, np.concatenate([IMAGES, MORE]))
    assert labels.tolist() == [*LABELS, *[UNLABELLED] * 7]
    assert isinstance(data.test, ResidentSplit)
    for batch in data.train.batches(10, device="cpu", order_seed=0):
        assert (batch.labels == UNLABELLED).sum() == 5


def test_all_else_is_as_without_them(insects, tmp_path):
    more = write_flat(tmp_path / "more", MORE)
    alone, data = load_images(insects), load_images(insects, unlabelled=f"folder:{more}")
    for name in ("mean", "std", "class_names", "image_shape"):
        assert getattr(data, name) == getattr(alone, name)
    assert torch.equal(data.train.labelled.images, alone.train.images)
    assert torch.equal(data.test.images, alone.test.images)


def test_the_rest_of_the_training_images(insects):
    options = {"train_size": 9, "dev_fraction": 0.2}
    data = load_images(insects, unlabelled="rest", **options)
    alone = load_images(insects, **options)
    assert torch.equal(data.train.labelled.images, alone.train.images)
    assert (len(data.train), len(data.dev)) == (24, 6)
    images, labels = in_order(data.train)
    known = {image.tobytes() for image in np.concatenate([images, in_order(data.dev)[0]])}
    assert known == {image.tobytes() for image in IMAGES}
    assert labels[9:].tolist() == [UNLABELLED] * 15


def test_the_rest_is_of_the_chosen_classes(insects):
    data = load_images(insects, unlabelled="rest", train_size=4, classes_every=2)
    assert len(data.train) == 20


@pytest.mark.parametrize("train_size", [None, 30])
def test_there_is_no_rest(insects, train_size):
    with pytest.raises(
        ArgumentError, match=r"unlabelled: .*all training images have labels.*'rest"
    ):
        load_images(insects, unlabelled="rest", train_size=train_size)


def test_the_fingerprint_changes_with_them(insects, tmp_path):
    other = MORE.copy()
    other[3, 0, 0, 0] ^= 1
    specs = [write_flat(tmp_path / str(n), m) for n, m in enumerate((MORE, other, MORE[:6]))]
    prints = [load_images(insects, unlabelled=f"folder:{spec}").fingerprint for spec in specs]
    assert len({load_images(insects).fingerprint, *prints}) == 4
    again = load_images(insects, unlabelled=f"folder:{write_flat(tmp_path / 'again', MORE)}")
    assert again.fingerprint == prints[0]


def test_they_count_in_the_memory_limit(insects, tmp_path):
    more, decoded = write_flat(tmp_path / "more", MORE), (30 + 6 + 7) * 3 * 8 * 8
    options = {"unlabelled": f"folder:{more}", "workers": 0}
    resident = load_images(insects, memory_limit_gb=decoded / 1e9, **options)
    streamed = load_images(insects, memory_limit_gb=(decoded - 1) / 1e9, **options)
    assert isinstance(streamed.train.labelled, StreamedSplit)
    assert streamed.train.labelled.workers == 0
    assert resident.fingerprint == streamed.fingerprint
    for one, other in zip(in_order(resident.train), in_order(streamed.train), strict=True):
        assert np.array_equal(one, other)


# Mistakes


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("folders:x", "did you mean 'folder:PATH'"),
        ("rset", "did you mean 'rest'"),
        ("digits", "choose from 'folder:PATH', 'hub:NAME', 'parquet:PATH', 'rest'"),
        ("parquet:", "did you mean 'parquet:PATH'"),
    ],
)
def test_an_unknown_scheme(spec, remedy):
    message = f"unlabelled: expected one of folder:PATH, .*rest, got '{spec}'; {remedy}"
    with pytest.raises(ArgumentError, match=message):
        open_unlabelled(spec, None)


def test_something_else():
    with pytest.raises(
        ArgumentError, match=r"unlabelled: expected a text such as folder:PATH, .* got list"
    ):
        open_unlabelled([7], None)


def test_images_of_another_size(insects, tmp_path):
    spec = f"folder:{write_flat(tmp_path / 'more', noise(2, 10))}"
    message = r"expected unlabelled images of 8x8 like the training images, got 10x10; .*size"
    with pytest.raises(DataError, match=message):
        load_images(insects, unlabelled=spec)
    assert load_images(insects, unlabelled=spec, fallback_size=9).image_shape == (3, 9, 9)


def test_no_images(tmp_path):
    with pytest.raises(DataError, match="expected a folder of images, got none with a suffix of"):
        open_unlabelled(f"folder:{tmp_path}", None)
    with pytest.raises(DataError, match="unlabelled: expected at least one image"):
        open_unlabelled(table(MORE, [0] * 7).select([]), None)


def test_no_column_of_images():
    rows = table(MORE, [0] * 7).remove_columns("img")
    with pytest.raises(DataError, match=r"expected an image column \(Image\), got the columns lab"):
        open_unlabelled(rows, None)


def test_no_split_to_learn_from():
    splits = DatasetDict(a=table(MORE, [0] * 7), b=table(MORE, [0] * 7))
    with pytest.raises(DataError, match="expected a split named 'unlabeled' or 'train', got 'a'"):
        open_unlabelled(splits, None)
