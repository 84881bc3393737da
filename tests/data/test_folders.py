from pathlib import Path

import pytest

from picture_files import NAMES, in_turn, labels_of, noise, write_folder
from svdistill.common.errors import ArgumentError, DataError
from svdistill.data import DataWarning
from svdistill.data.folders import read_folder
from svdistill.data.split_names import AUTOMATIC, DataChoices

IMAGES, LABELS = noise(6), in_turn(6)


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train", "test"], "train", "test"),
        (["train", "val"], "train", "val"),
        (["training", "validation", "test"], "training", "test"),
        (["train"], "train", None),
    ],
)
def test_a_folder_with_splits(tmp_path, names, train, test):
    for name in names:
        write_folder(tmp_path / name, IMAGES, LABELS)
    tables = read_folder(tmp_path)
    assert tables.chosen(AUTOMATIC) == (train, test)
    assert labels_of(tables) == {name: [0, 0, 1, 1, 2, 2] for name in (train, test) if name}
    assert tables.class_names == NAMES


def test_a_folder_without_splits(tmp_path):
    tables = read_folder(write_folder(tmp_path, IMAGES, LABELS))
    assert labels_of(tables) == {"images": [0, 0, 1, 1, 2, 2]}
    assert tables.chosen(AUTOMATIC) == ("images", None)


def test_a_class_may_be_called_train(tmp_path):
    write_folder(tmp_path, IMAGES, LABELS, ("train", "bus", "boat"))
    with pytest.warns(DataWarning, match="'train' holds no folders and is taken as a class"):
        tables = read_folder(tmp_path)
    assert tables.class_names == ("boat", "bus", "train")
    assert list(tables.splits) == ["images"]


def test_classes_are_those_of_all_splits(tmp_path):
    write_folder(tmp_path / "train", IMAGES, LABELS, ("bee", "cat", "dog"))
    write_folder(tmp_path / "test", IMAGES[:2], [0, 1], ("ant", "cat"))
    tables = read_folder(tmp_path)
    assert tables.class_names == ("ant", "bee", "cat", "dog")
    assert labels_of(tables) == {"train": [1, 1, 2, 2, 3, 3], "test": [0, 2]}


def test_only_images_count_in_any_depth_and_case(tmp_path):
    write_folder(tmp_path, IMAGES, LABELS)
    (tmp_path / "ant" / "notes.txt").write_text("six legs")
    (tmp_path / "notes.png").write_text("not in the folder of a class")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "bee" / "2019").mkdir()
    (tmp_path / "bee" / "001.png").rename(tmp_path / "bee" / "2019" / "001.PNG")
    assert labels_of(read_folder(tmp_path)) == {"images": [0, 0, 1, 1, 2, 2]}


def test_what_may_have_been_meant_to_be_read_is_told(tmp_path):
    write_folder(tmp_path / "train", IMAGES, LABELS)
    (tmp_path / "test").symlink_to(tmp_path / "gone")
    (tmp_path / "val.zip").touch()
    (tmp_path / "train" / "@eaDir").mkdir()
    with pytest.warns(DataWarning) as told:
        assert read_folder(tmp_path).class_names == NAMES
    for part in ("broken link(s) ('test')", "named like splits ('val.zip')", "('train/@eaDir')"):
        assert part in str(told[0].message)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match="expected a folder of images, got nothing there"):
        read_folder(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a folder of images, got a file"):
        read_folder(tmp_path / "file")


def test_a_folder_without_anything(tmp_path):
    with pytest.raises(DataError, match=r"one folder of images per class, got no images; .*CLASS"):
        read_folder(tmp_path)


def test_a_class_without_images(tmp_path):
    write_folder(tmp_path / "train", IMAGES, LABELS)
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "rex.heic").touch()
    with pytest.raises(DataError, match=r"train.dog: expected images of one class, got none .*png"):
        read_folder(tmp_path)


@pytest.mark.parametrize("layout", [(), ("images",), (".hidden",)])
def test_a_test_split_whose_images_are_not_sorted(tmp_path, layout):
    write_folder(tmp_path / "train", IMAGES, LABELS)
    folder = tmp_path.joinpath("val", *layout)
    write_folder(folder.parent, IMAGES[:3], [0, 0, 0], (folder.name,))
    with pytest.raises(DataError, match=r"missing labels in 'val'; .* folders named like"):
        read_folder(tmp_path)
    write_folder(tmp_path / "validation", IMAGES[:3], in_turn(3))
    tables = read_folder(tmp_path)
    assert (tables.chosen(AUTOMATIC)[1], tables.class_names) == ("validation", NAMES)


def test_a_relative_path(tmp_path, monkeypatch):
    write_folder(tmp_path / "here" / "insects", IMAGES, LABELS)
    monkeypatch.chdir(tmp_path / "here")
    tables = read_folder(Path("insects"))
    first = tmp_path / "here" / "insects" / "ant" / "000.png"
    assert tables.splits["images"][0]["image"]["path"] == str(first)


def test_links_in_a_circle_end(tmp_path):
    write_folder(tmp_path, IMAGES, LABELS)
    inside = tmp_path / NAMES[0]
    (inside / "up").symlink_to(tmp_path)
    (inside / "itself").symlink_to(inside / "itself")
    tables = read_folder(tmp_path)
    assert sum(map(len, labels_of(tables).values())) == len(IMAGES)


# Splits in other spellings


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("Train", "Test"), ("training", "testing"), ("training_set", "test_set")],
        *[("train", "eval"), ("TrainData", "Val")],
    ],
)
def test_splits_in_other_spellings(tmp_path, train, test):
    for name in (train, test):
        write_folder(tmp_path / name, IMAGES, LABELS)
    tables = read_folder(tmp_path)
    assert tables.chosen(AUTOMATIC) == (train, test)
    assert tables.class_names == NAMES


@pytest.mark.parametrize(
    "names",
    [
        *[("my_train", "my_test"), ("images", "test"), ("trainval", "val"), ("train", "held_back")],
        *[("train", "my_test"), ("test", "val")],
    ],
)
def test_folders_that_may_be_splits_are_refused(tmp_path, names):
    for name in names:
        write_folder(tmp_path / name, IMAGES, LABELS)
    with pytest.raises(DataError, match=r"give .*--test_split"):
        read_folder(tmp_path)
    wanted = DataChoices(train_split=names[0], test_split=names[1])
    tables = read_folder(tmp_path, wanted)
    assert tables.chosen(wanted) == names
    whole = read_folder(tmp_path, DataChoices(train_split="."))
    assert whole.class_names == tuple(sorted(names))


@pytest.mark.parametrize("names", [("Train", "Test"), ("ant", "test"), ("ant", "unlabeled")])
def test_a_split_without_folders_is_no_class(tmp_path, names):
    write_folder(tmp_path, IMAGES, LABELS % 2, names)
    with pytest.raises(DataError, match="named like a split, among 2 folders"):
        read_folder(tmp_path)


def test_splits_within_classes_are_refused(tmp_path):
    for name in NAMES:
        write_folder(tmp_path / name, IMAGES[:2], [0, 1], ("train", "test"))
    with (
        pytest.raises(DataError, match=r"ant: .*got folders named like splits, 'test', 'train'"),
        pytest.warns(DataWarning, match="are taken as classes, though each holds the folders"),
    ):
        read_folder(tmp_path)


def test_a_test_split_may_be_cut_whatever_else_there_is(tmp_path):
    for name in ("train", "test"):
        write_folder(tmp_path / name, IMAGES, LABELS)
    wanted = DataChoices(test_split="cut")
    with pytest.warns(DataWarning, match=r"1 folder\(s\) beside the splits with 6 image\(s\)"):
        tables = read_folder(tmp_path, wanted)
    assert tables.chosen(wanted) == ("train", None)


def test_a_chosen_split_that_is_not_there(tmp_path):
    write_folder(tmp_path / "train", IMAGES, LABELS)
    with pytest.raises(ArgumentError, match="train_split: expected one of 'train', got 'fit'"):
        read_folder(tmp_path, DataChoices(train_split="fit"))
