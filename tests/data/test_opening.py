import datasets
import numpy as np
import pytest
from hypothesis import given, strategies as st

from picture_files import in_turn, noise, write_folder, write_parquet
from svdistill.common.errors import ArgumentError, DataError
from svdistill.data.opening import open_images

IMAGES, LABELS = noise(30), in_turn(30)


def stored(part):
    """The images of a part as they lie in its rows, [N, H, W, 3]."""
    return part.pictures.read(part.rows).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("scheme", ["parquet", "folder"])
def test_train_and_test_are_what_lies_there(tmp_path, scheme):
    write = write_folder if scheme == "folder" else write_parquet
    suffix = "" if scheme == "folder" else "-0.parquet"
    order = np.argsort(LABELS, kind="stable") if scheme == "folder" else np.arange(30)
    write(tmp_path / f"train{suffix}", IMAGES, LABELS)
    write(tmp_path / f"test{suffix}", IMAGES[order][:4], LABELS[order][:4])
    opened = open_images(f"{scheme}:{tmp_path}", None)
    assert np.array_equal(stored(opened.train), IMAGES[order])
    assert np.array_equal(opened.train.labels, LABELS[order])
    assert np.array_equal(stored(opened.test), IMAGES[order][:4])
    assert np.array_equal(opened.test.labels, LABELS[order][:4])


def test_a_test_split_is_cut_where_there_is_none(tmp_path):
    opened = open_images(f"parquet:{write_parquet(tmp_path / 'a.parquet', IMAGES, LABELS)}", None)
    assert np.bincount(opened.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(opened.test.labels).tolist() == [2, 2, 2]
    rows = np.concatenate([opened.train.rows, opened.test.rows])
    assert sorted(rows) == list(range(30))
    for part in (opened.train, opened.test):
        assert np.array_equal(stored(part), IMAGES[part.rows])
        assert np.array_equal(part.labels, LABELS[part.rows])


def test_digits():
    opened = open_images("digits", None)
    assert opened.class_names == tuple("0123456789")
    assert opened.train.pictures.shape == (3, 16, 16)
    assert open_images("digits", 24).test.pictures.shape == (3, 24, 24)


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "insects", IMAGES, LABELS)
    assert len(open_images("folder:~/insects", None).train.rows) == 24


def test_a_single_class(tmp_path):
    write_folder(tmp_path, IMAGES[:3], [0, 0, 0])
    with pytest.raises(DataError, match="expected at least 2 classes, got ant; use a data set"):
        open_images(f"folder:{tmp_path}", None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, None, 2],
            "split 'train': expected .* labels 0 to 2, got label -1 in row 2",
        ),
        ([0, -1, 1, 2], "got label -1 in row 1; remove the images without a label"),
        ([], "corresponds to no data"),
    ],
)
def test_images_without_labels_and_no_images(tmp_path, labels, message):
    write_parquet(tmp_path / "train-0.parquet", IMAGES[: len(labels)], labels)
    with pytest.raises(DataError, match=message):
        open_images(f"parquet:{tmp_path}", None)


def test_a_text_file_named_png(tmp_path):
    write_folder(tmp_path, IMAGES, LABELS)
    broken = tmp_path / "ant" / "000.png"
    broken.write_text("I am a text")
    opened = open_images(f"folder:{tmp_path}", None)
    with pytest.raises(DataError, match=r"ant.000\.png: .*got no image format that Pillow knows"):
        stored(opened.train)


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("digts", "did you mean 'digits'"),
        ("Digits", "did you mean 'digits'"),
        ("parqet:/a/long/path/to/the/files", "did you mean 'parquet:PATH'"),
        ("folders:pictures", "did you mean 'folder:PATH'"),
        ("parquet:", "did you mean 'parquet:PATH'"),
        ("cifar100", "choose from 'digits', 'folder:PATH', 'hub:NAME', 'parquet:PATH'"),
        ("", "choose from 'digits'"),
        (":", "choose from 'digits'"),
        ("https://example.org/a.parquet", "choose from|did you mean"),
    ],
)
def test_an_unknown_scheme(spec, remedy):
    message = rf"data: expected one of digits, folder:PATH, .*, got '{spec}'; ({remedy})"
    with pytest.raises(ArgumentError, match=message):
        open_images(spec, None)


@given(st.text(max_size=40).filter(lambda text: not text.startswith(("parquet:", "folder:"))))
def test_any_other_text_is_an_argument_error(text):
    if text == "digits" or text.startswith("hub:"):
        return
    with pytest.raises(ArgumentError, match=r"data: expected one of digits, .*; \w"):
        open_images(text, None)


def test_a_path_without_its_scheme(tmp_path):
    with pytest.raises(ArgumentError, match=f"; write folder:{tmp_path}$"):
        open_images(str(tmp_path), None)
    path = write_parquet(tmp_path / "a.parquet", IMAGES, LABELS)
    with pytest.raises(ArgumentError, match=f"; write parquet:{path}$"):
        open_images(str(path), None)


def test_the_hub_is_asked_by_name(monkeypatch):
    def load(name):
        raise ConnectionError(f"asked for {name}")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"hub:someone/images: .*got asked for someone/images"):
        open_images("hub:someone/images", None)


@pytest.mark.parametrize("size", [7, 0, -8, 8.0, True, "32"])
def test_a_bad_image_size(size):
    with pytest.raises(ArgumentError, match="image_size: expected an integer of at least 8"):
        open_images("digits", size)
