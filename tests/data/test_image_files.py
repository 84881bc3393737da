import os

import pytest
from PIL import Image

from svdistill.common.errors import DataError
from svdistill.data import DataWarning
from svdistill.data.data_warnings import SkippedFiles
from svdistill.data.image_files import class_images, image_suffixes, images_below


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def told(folder):
    """The names of the images, and what is said of the rest."""
    skipped = SkippedFiles(folder)
    images = images_below(folder, skipped)
    with pytest.warns(DataWarning) as notes:
        skipped.warn()
    (note,) = notes
    return [str(image.relative_to(folder)) for image in images], str(note.message)


def test_suffixes_are_those_that_pillow_decodes(monkeypatch):
    suffixes = set(image_suffixes())
    assert {".jpg", ".jpe", ".jfif", ".png", ".pgm", ".webp", ".tif", ".mpo"} <= suffixes
    assert not {".pdf", ".mpg", ".h5", ".eps", ".heic"} & suffixes
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")  # as a plugin registers it
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    assert ".heic" in image_suffixes()


def test_whatever_is_left_out_is_counted_and_named(tmp_path):
    more = tmp_path / "more"
    write(*(tmp_path / "ant" / name for name in ("1.PNG", "a/2.jfif", "3.heic", "4.HEIC", "x")))
    write(tmp_path / "ant" / ".copies" / "1.png", tmp_path / "ant" / "__MACOSX" / "2.png")
    write(tmp_path / "ant" / "._1.png", tmp_path / "ant" / "b.png" / "5.png", more / "6.png")
    (tmp_path / "ant" / "more").symlink_to(more)
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    images, note = told(tmp_path / "ant")
    assert images == ["1.PNG", "a/2.jfif"]
    for part in (
        "2 hidden folder(s) with 2 image(s) ('.copies', '__MACOSX')",
        "1 hidden file(s) ('._1.png')",
        "1 folder(s) named like images with 1 image(s) ('b.png')",
        "1 pipe(s) or device(s) ('pipe.png')",
        "1 link(s) to folders, not followed ('more')",
        "3 file(s) that Pillow does not read by suffix (2 .heic, 1 no suffix)",
    ):
        assert part in note


def test_a_link_to_a_file_is_read(tmp_path):
    write(tmp_path / "1.png", tmp_path / "ant" / "x.txt")
    (tmp_path / "ant" / "1.png").symlink_to(tmp_path / "1.png")
    assert told(tmp_path / "ant")[0] == ["1.png"]


def test_a_folder_without_images(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(
            DataError, match=r"images of one class, got none with a suffix of .*png"
        ):
            class_images(folder, SkippedFiles(folder))
