"""Find images that lie as files in one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from svdistill.data.tables import ONLY_NAME, TEST_NAMES, TRAIN_NAMES, Tables
from svdistill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def read_folder(path: Path) -> Tables:
    """List ``PATH/train/CLASS/*.png`` and ``PATH/test/...`` (or val), or ``PATH/CLASS/*.png``."""
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise DataError(str(path), expected="a folder of images", got=got, remedy="check the path")
    roots = _split_folders(path)
    names = tuple(sorted({name for root in roots.values() for name in _class_names(root)}))
    splits = {}
    for split, root in roots.items():
        files: list[Path] = []
        labels: list[int] = []
        for name in _class_names(root):
            images = class_images(root / name)
            files += images
            labels += [names.index(name)] * len(images)
        if not files:
            raise DataError(
                str(root),
                expected="one folder of images per class",
                got="no images",
                remedy=f"lay them out as {root}/CLASS/NAME.png",
            )
        splits[split] = table_of_files(files, labels, names)
    return Tables(str(path), splits, "image", "label", names)


def class_images(folder: Path) -> list[Path]:
    """The images of one class, in any depth.

    Raises:
        DataError: there is none.
    """
    return _found(folder, "images of one class", "add images, or remove the class")


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, in any depth, of whatever class.

    Raises:
        DataError: there is none.
    """
    return _found(folder, "a folder of images", "check the path")


def _found(folder: Path, expected: str, remedy: str) -> list[Path]:
    images = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        got = "none with a suffix of " + ", ".join(IMAGE_SUFFIXES)
        raise DataError(str(folder), expected=expected, got=got, remedy=remedy)
    return images


def table_of_files(
    files: Sequence[Path], labels: Sequence[int | None], class_names: Sequence[str]
) -> Dataset:
    """The columns ``image`` and ``label`` of encoded images that stay where they are."""
    # Imported here: it takes a second, and the digits need none of it.
    from datasets import ClassLabel, Dataset, Features, Image, Value

    features = Features(
        image={"bytes": Value("binary"), "path": Value("string")},
        label=ClassLabel(names=list(class_names)),
    )
    cells = [{"bytes": None, "path": str(file.absolute())} for file in files]
    table = Dataset.from_dict({"image": cells, "label": list(labels)}, features=features)
    return table.cast_column("image", Image(decode=False))


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders of the splits by name, or the folder itself where it holds the classes."""
    found = [name for name in _class_names(path) if name in TRAIN_NAMES + TEST_NAMES]
    # A folder "train" without folders in it is no split: it may be a class like "car".
    train = [name for name in found if name in TRAIN_NAMES and _class_names(path / name)]
    if not train:
        return {ONLY_NAME: path}
    classes = {child for name in train for child in _class_names(path / name)}
    # Unsorted images, or all of them in one folder of another name: a test split without labels.
    tests = [name for name in found if name in TEST_NAMES]
    labelled = [name for name in tests if classes.intersection(_class_names(path / name))]
    if tests and not labelled:
        raise DataError(
            str(path / tests[0]),
            expected=f"folders of classes in {path / train[0]}",
            got=", ".join(_class_names(path / tests[0])[:5]) or "no folders",
            remedy="sort its images into folders named like those, or remove it to have a test "
            "split cut from train; for Tiny-ImageNet as published write tiny_imagenet:PATH",
        )
    return {name: path / name for name in train + labelled}


def _class_names(path: Path) -> list[str]:
    """The names of the folders in a folder."""
    return sorted(child.name for child in path.iterdir() if child.is_dir() and child.name[0] != ".")
