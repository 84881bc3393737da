from pathlib import Path

import pytest
from picture_files import NAMES, in_turn, labels_of, noise, write_folder

from svdistill.data import DataWarning
from svdistill.data.folders import read_folder
from svdistill.errors import DataError

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
    assert (tables.train_name(), tables.test_name()) == (train, test)
    assert labels_of(tables) == {name: [0, 0, 1, 1, 2, 2] for name in names}
    assert tables.class_names == NAMES


def test_a_folder_without_splits(tmp_path):
    tables = read_folder(write_folder(tmp_path, IMAGES, LABELS))
    assert labels_of(tables) == {"images": [0, 0, 1, 1, 2, 2]}
    assert (tables.train_name(), tables.test_name()) == ("images", None)


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
    got = "images" if layout == ("images",) else "no folders"
    with pytest.raises(DataError, match=rf"val: expected folders of classes in .*, got {got};"):
        read_folder(tmp_path)
    write_folder(tmp_path / "validation", IMAGES[:3], in_turn(3))
    tables = read_folder(tmp_path)
    assert (tables.test_name(), tables.class_names) == ("validation", NAMES)


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
