import shutil

import numpy as np
import pytest
from PIL import Image

from imagenet_files import VAL, WNIDS, write_tiny_imagenet
from picture_files import in_order, labels_of
from svdistill.common.errors import DataError
from svdistill.data import load_images
from svdistill.data.folders import name_classes, read_tiny_imagenet
from svdistill.data.split_names import AUTOMATIC

NAMES = (
    "goldfish, Carassius auratus",  # n01443537
    "crane (n02012849)",
    "Egyptian cat",  # n02124075
    "crane (n03126707)",
)


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_imagenet(tmp_path / "tiny-imagenet-200")


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_published_layout(tiny):
    data = load_images(f"tiny_imagenet:{tiny}")
    assert data.class_names == NAMES
    assert data.image_shape == (3, 64, 64)
    images, labels = in_order(data.train)
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    files = [
        tiny / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
        for wnid in sorted(WNIDS)
        for number in range(6)
    ]
    assert np.array_equal(images, [pixels(file) for file in files])
    images, labels = in_order(data.test)
    assert labels.tolist() == [sorted(WNIDS).index(wnid) for wnid in VAL]
    files = [tiny / "val" / "images" / f"val_{number}.JPEG" for number in range(5)]
    assert np.array_equal(images, [pixels(file) for file in files])


def test_a_grey_image_has_three_equal_channels(tiny):
    file = tiny / "train" / "n01443537" / "images" / "n01443537_3.JPEG"
    assert Image.open(file).mode == "L"
    image = in_order(load_images(f"tiny_imagenet:{tiny}").train)[0][3]
    assert np.array_equal(image, np.asarray(Image.open(file))[..., None].repeat(3, axis=2))


def test_val_is_the_test_split(tiny):
    tables = read_tiny_imagenet(tiny)
    assert tables.chosen(AUTOMATIC) == ("train", "val")
    assert list(labels_of(tables)) == ["train", "val"]


def test_classes_are_named_by_their_words():
    words = {"n1": "crane", "n2": " crane", "n3": "ant, emmet", "n9": "ant, emmet"}
    assert name_classes(["n1", "n2", "n3"], words) == ("crane (n1)", "crane (n2)", "ant, emmet")
    assert name_classes(["n4", "n3"], words) == ("n4", "ant, emmet")


def test_lines_may_end_as_on_windows(tiny):
    before = load_images(f"tiny_imagenet:{tiny}").fingerprint
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        file = tiny / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert load_images(f"tiny_imagenet:{tiny}").fingerprint == before


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_a_text_file_that_is_missing_or_none(tiny, name):
    (tiny / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=rf"{name}: expected a text file .*got UnicodeDecodeError"):
        read_tiny_imagenet(tiny)
    (tiny / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: .*got FileNotFoundError; .*tiny-imagenet"):
        read_tiny_imagenet(tiny)


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ("val_9.JPEG\tn01443537\t0\t0\t63\t63", "no val_9.JPEG in .*images; unpack"),
        ("val_1.JPEG\tn09999999\t0\t0\t63\t63", "the unknown ID 'n09999999'; "),
        ("val_1.JPEG", "the unknown ID ''; "),
        ("", "no  in .*images; "),
    ],
)
def test_a_row_that_cannot_be(tiny, row, got):
    file = tiny / "val" / "val_annotations.txt"
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, row, *rest]))
    with pytest.raises(DataError, match=rf"annotations\.txt, line 2: expected an image in .*{got}"):
        read_tiny_imagenet(tiny)


@pytest.mark.parametrize("gone", ["n02012849", "n02012849/images"])
def test_a_class_without_images(tiny, gone):
    shutil.rmtree(tiny / "train" / gone)
    with pytest.raises(DataError, match=r"n02012849.images: expected images of one class"):
        read_tiny_imagenet(tiny)


def test_a_folder_of_an_unknown_class(tiny):
    (tiny / "train" / "n09999999").mkdir()
    with pytest.raises(DataError, match=r"n09999999: expected .*wnids\.txt lists, got 'n09999999'"):
        read_tiny_imagenet(tiny)


def test_nothing_in_it(tiny):
    (tiny / "wnids.txt").write_text("")
    with pytest.raises(DataError, match=r"train.n01443537: expected a folder of a WordNet ID"):
        read_tiny_imagenet(tiny)
    shutil.rmtree(tiny / "train")
    (tiny / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(DataError, match="expected at least 2 classes, got none"):
        load_images(f"tiny_imagenet:{tiny}")


def test_as_a_folder_it_is_refused_until_val_is_sorted(tiny):
    with pytest.raises(DataError, match=r"labels in 'test', 'val'; .*write tiny_imagenet:PATH"):
        load_images(f"folder:{tiny}")
    for number, wnid in enumerate(VAL):
        target = tiny / "val" / wnid / "images"
        target.mkdir(parents=True, exist_ok=True)
        (tiny / "val" / "images" / f"val_{number}.JPEG").rename(target / f"val_{number}.JPEG")
    (tiny / "val" / "images").rmdir()
    data = load_images(f"folder:{tiny}")
    assert data.class_names == tuple(sorted(WNIDS))
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 2, 3]
