"""Read images that lie as files in one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from svdistill.data.image_files import (
    class_images,
    count_images,
    image_suffixes,
    is_hidden,
)
from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.split_names import (
    ANY,
    CUT,
    HERE,
    Wanted,
    folder_role,
    split_role,
    wanted_split,
)
from svdistill.data.tables import ONLY_NAME, Tables
from svdistill.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from datasets import Dataset


def read_folder(path: Path, wanted: Wanted = ANY) -> Tables:
    """List ``PATH/train/CLASS/*.png`` and ``PATH/test/...`` (or val), or ``PATH/CLASS/*.png``.

    Raises:
        ArgumentError: a wanted split is not there.
        DataError: no images, or folders of which it is unclear whether they are splits or classes.
    """
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise DataError(str(path), expected="a folder of images", got=got, remedy="check the path")
    left_out = LeftOut(path)
    roots = _split_folders(path, wanted, left_out)
    classes = {split: _class_names(root) for split, root in roots.items()}
    for folder in dict.fromkeys([path, *roots.values()]):
        _count_loose(folder, left_out)
    names = tuple(sorted({name for found in classes.values() for name in found}))
    numbers = {name: number for number, name in enumerate(names)}
    splits = {}
    for split, root in roots.items():
        files: list[Path] = []
        labels: list[int] = []
        for name in classes[split]:
            _require_no_splits(root / name)
            images = class_images(root / name, left_out)
            files += images
            labels += [numbers[name]] * len(images)
        if not files:
            raise DataError(
                str(root),
                expected="one folder of images per class",
                got="no images",
                remedy=f"lay them out as {root}/CLASS/NAME.png",
            )
        splits[split] = table_of_files(files, labels, names)
    left_out.tell()
    return Tables(str(path), splits, "image", "label", names)


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


def _split_folders(path: Path, wanted: Wanted, left_out: LeftOut) -> dict[str, Path]:
    """The folders of the splits by name, or the folder itself where it holds the classes."""
    found = _class_names(path)
    if wanted.train_split == HERE:
        return {ONLY_NAME: path}
    if wanted.train_split is not None:
        train = [wanted_split("train_split", wanted.train_split, found)]
    else:
        # A folder "train" without folders in it is no split: it may be a class like "car".
        train = [name for name in found if folder_role(name) == "train"]
        train = [name for name in train if _class_names(path / name)]
    if not train:
        _require_classes(path, found, wanted)
        return {ONLY_NAME: path}
    tests = _test_folders(path, found, train, wanted)
    for name in found:
        if name not in train + tests:
            images = count_images(path / name)
            left_out.add("folder(s) beside the splits", path / name, images)
    return {name: path / name for name in train + tests}


def _test_folders(path: Path, found: list[str], train: list[str], wanted: Wanted) -> list[str]:
    """The folders to test on that have classes of the training folders."""
    classes = {child.casefold() for name in train for child in _class_names(path / name)}
    labelled = [
        name
        for name in found
        if classes.intersection(child.casefold() for child in _class_names(path / name))
    ]
    if wanted.test_split == CUT:
        return []
    if wanted.test_split is not None:
        tests = [wanted_split("test_split", wanted.test_split, found)]
    else:
        tests = [name for name in found if folder_role(name) == "test" and name not in train]
    # Unsorted images, or all of them in one folder of another name: a test split without labels.
    usable = [name for name in tests if name in labelled]
    if tests and not usable:
        raise DataError(
            str(path / tests[0]),
            expected=f"folders of classes in {path / train[0]}",
            got=", ".join(_class_names(path / tests[0])[:5]) or "no folders",
            remedy="sort its images into folders named like those, or give --test_split cut to "
            "have one cut from train; for Tiny-ImageNet as published write tiny_imagenet:PATH",
        )
    unnamed = [name for name in labelled if folder_role(name) is None and name not in train]
    if unnamed and not usable:
        raise DataError(
            str(path),
            expected="one folder to test on, named test or val",
            got=f"{listed(unnamed)} with the same classes as {train[0]!r}",
            remedy="give --test_split with its name, or --test_split cut to have one cut from "
            "train; if these are classes, give --train_split .",
        )
    return usable


def _require_classes(path: Path, found: list[str], wanted: Wanted) -> None:
    """Raise `DataError` where folders that would be taken as classes may be splits."""
    if wanted.test_split not in (None, CUT):
        raise ArgumentError(
            "train_split",
            expected=f"the folder to train on, beside that to test on, {wanted.test_split!r}",
            got="nothing",
            remedy="give --train_split with one of " + listed(found),
        )
    nested = [name for name in found if _class_names(path / name)]
    tests = [name for name in found if folder_role(name) in ("test", "unlabelled")]
    for some in (nested, found):
        roles = [split_role(name) for name in some]
        if {"train", "test"} <= set(roles) and (some == nested or all(roles)):
            tests = tests or some
    if tests:
        raise DataError(
            str(path),
            expected="a training split with folders of classes beside the others, or classes alone",
            got=f"{listed(tests)}, named like a split, among {len(found)} folders",
            remedy="name the folders train and test with one folder per class in each, or give "
            "--train_split and --test_split; if all are classes, give --train_split .",
        )
    for name in found:
        if folder_role(name) == "train":
            note(f"{path}: {name!r} holds no folders and is taken as a class, not as a split")
    inside = {tuple(_class_names(path / name)) for name in found}
    if len(found) > 1 and len(inside) == 1 and len(next(iter(inside))) > 1:
        note(
            f"{path}: {listed(found)} are taken as classes, though each holds the folders "
            f"{listed(inside.pop())}; if they are splits, give --train_split and --test_split"
        )


def _require_no_splits(folder: Path) -> None:
    """Raise `DataError` for splits within a class."""
    names = _class_names(folder)
    if {"train", "test"} <= {folder_role(name) for name in names}:
        raise DataError(
            str(folder),
            expected="images of one class",
            got=f"folders named like splits, {listed(names)}",
            remedy="lay images out as PATH/SPLIT/CLASS/NAME.png, or give the folder that holds the "
            "splits",
        )


def _count_loose(folder: Path, left_out: LeftOut) -> None:
    """Count what lies beside the folders of classes: images, hidden folders, links upwards."""
    suffixes = image_suffixes()
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            if is_hidden(child):
                left_out.add("hidden folder(s)", child, count_images(child))
            elif _leads_up(child):
                left_out.add("link(s) to folders, not followed", child)
        elif child.suffix.lower() in suffixes:
            left_out.add("image(s) outside of the folders of classes", child)


def _class_names(path: Path) -> list[str]:
    """The names of the folders in a folder, if it is one."""
    if not path.is_dir():
        return []
    children = (child for child in path.iterdir() if child.is_dir())
    return sorted(c.name for c in children if not is_hidden(c) and not _leads_up(c))


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in, whose images would come again."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())
