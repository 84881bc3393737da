"""Images in folders: one folder per class, or Tiny-ImageNet as published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from svdistill.common import ArgumentError, DataError, listed, warn_of_data
from svdistill.data.image_files import (
    SkippedFiles,
    count_images,
    image_suffixes,
    images_below,
    is_hidden,
    no_images,
    table_of_files,
)
from svdistill.data.split_names import (
    AUTOMATIC,
    CUT,
    WHOLE_FOLDER,
    DataChoices,
    FoundSplits,
    Role,
    folder_role,
    split_role,
)
from svdistill.data.tables import ONLY_NAME, Tables

ANNOTATIONS: Final = "val_annotations.txt"


def read_folder(path: Path, choices: DataChoices = AUTOMATIC) -> Tables:
    """List ``PATH/train/CLASS/*.png`` and ``PATH/test/...`` (or val), or ``PATH/CLASS/*.png``.

    Raises `DataError` if it is unclear whether folders are splits or classes.
    """
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise DataError(str(path), expected="a folder of images", got=got, remedy="check the path")
    skipped = SkippedFiles(path)
    roots = _split_folders(path, choices, skipped)
    classes = {split: _class_names(root) for split, root in roots.items()}
    for folder in dict.fromkeys([path, *roots.values()]):
        _count_loose(folder, skipped)
    names = tuple(sorted({name for found in classes.values() for name in found}))
    numbers = {name: number for number, name in enumerate(names)}
    splits = {}
    for split, root in roots.items():
        folders = {root / name: numbers[name] for name in classes[split]}
        if not folders:
            raise DataError(
                str(root),
                expected="one folder of images per class",
                got="no images",
                remedy=f"lay them out as {root}/CLASS/NAME.png",
            )
        splits[split] = table_of_files(*_class_images(folders, skipped), names)
    skipped.warn()
    return Tables(str(path), splits, "image", "label", names)


def _split_folders(path: Path, choices: DataChoices, skipped: SkippedFiles) -> dict[str, Path]:
    """Return the folder of each split by name, or `path` itself if its folders are the classes."""
    names = _class_names(path)
    if choices.train_split == WHOLE_FOLDER:
        return {ONLY_NAME: path}

    def role(name: str) -> Role | None:
        """Return a folder's role; "train" without subfolders may be a class, like "car"."""
        found = folder_role(name)
        return None if found == "train" and not _class_names(path / name) else found

    found = FoundSplits(str(path), names, role)
    train = found.train(choices)
    if train is None:
        _require_classes(path, names, choices)
        return {ONLY_NAME: path}
    classes = {name.casefold() for name in _class_names(path / train)}

    def labelled(name: str) -> bool:
        return any(child.casefold() in classes for child in _class_names(path / name))

    test = found.test(train, choices, labelled)
    used = [name for name in (train, test) if name is not None]
    for name in names:
        if name not in used:
            skipped.add("folder(s) beside the splits", path / name, count_images(path / name))
    return {name: path / name for name in used}


def _require_classes(path: Path, found: list[str], choices: DataChoices) -> None:
    """Raise an error if folders that would be taken as classes may be splits; warn if in doubt."""
    if choices.test_split not in (None, CUT):
        raise ArgumentError(
            "train_split",
            expected=f"the folder to train on, beside that to test on, {choices.test_split!r}",
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
            warn_of_data(
                f"{path}: {name!r} holds no folders and is taken as a class, not as a split"
            )
    inside = {tuple(_class_names(path / name)) for name in found}
    if len(found) > 1 and len(inside) == 1 and len(next(iter(inside))) > 1:
        warn_of_data(
            f"{path}: {listed(found)} are taken as classes, though each holds the folders "
            f"{listed(inside.pop())}; if they are splits, give --train_split and --test_split"
        )


def _class_images(
    folders: Mapping[Path, int], skipped: SkippedFiles
) -> tuple[list[Path], list[int]]:
    """List the images in folders of classes, at any depth, and their labels.

    Raises `DataError` if a folder holds no images, or has subfolders named like splits.
    """
    files: list[Path] = []
    labels: list[int] = []
    for folder, number in folders.items():
        inside = _class_names(folder)
        if {"train", "test"} <= {folder_role(name) for name in inside}:
            raise DataError(
                str(folder),
                expected="images of one class",
                got=f"folders named like splits, {listed(inside)}",
                remedy="lay images out as PATH/SPLIT/CLASS/NAME.png, or give the folder that holds "
                "the splits",
            )
        images = images_below(folder, skipped)
        if not images:
            raise no_images(folder, "images of one class", "add images, or remove the class")
        files += images
        labels += [number] * len(images)
    return files, labels


def _count_loose(folder: Path, skipped: SkippedFiles) -> None:
    """Count as skipped what lies beside the class folders and so is not read."""
    suffixes = image_suffixes()
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            if is_hidden(child):
                skipped.add("hidden folder(s)", child, count_images(child))
            elif _leads_up(child):
                skipped.add("link(s) to folders, not followed", child)
        elif child.suffix.lower() in suffixes:
            skipped.add("image(s) outside of the folders of classes", child)
        elif child.is_symlink() and not child.exists():
            skipped.add("broken link(s)", child)
        elif folder_role(child.stem) is not None:
            skipped.add("file(s) named like splits", child)


def _class_names(path: Path) -> list[str]:
    """Return the names of the subfolders of a folder; an empty list if it is not a folder."""
    if not path.is_dir():
        return []
    children = (child for child in path.iterdir() if child.is_dir())
    return sorted(c.name for c in children if not is_hidden(c) and not _leads_up(c))


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to a folder around it: its images would be read repeatedly."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_tiny_imagenet(path: Path) -> Tables:
    """List the training images of Tiny-ImageNet, and its validation images as the test split.

    These are ``train/WNID/images/*`` and the images that ``val/val_annotations.txt`` lists, where
    WNID is a WordNet ID. ``val`` is the test split, as usual, since the published ``test`` has no
    labels. The classes are the IDs in ``wnids.txt`` in alphabetical order, named by ``words.txt``.
    """
    wnids = sorted(set(_lines(path / "wnids.txt")))
    words = dict(line.split("\t", 1) for line in _lines(path / "words.txt") if "\t" in line)
    names = name_classes(wnids, words)
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    skipped = SkippedFiles(path)
    splits = {
        "train": table_of_files(*_train_images(path / "train", numbers, skipped), names),
        "val": table_of_files(*_val_images(path / "val", numbers, skipped), names),
    }
    skipped.warn()
    return Tables(str(path), splits, "image", "label", names)


def name_classes(wnids: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Name each class by its words, else by its WordNet ID; equal words get the ID appended.

    Example:
        >>> words = {"n1": "crane", "n2": "crane", "n3": "goldfish, Carassius auratus"}
        >>> name_classes(["n1", "n2", "n3", "n4"], words)
        ('crane (n1)', 'crane (n2)', 'goldfish, Carassius auratus', 'n4')
    """
    named = [words.get(wnid, wnid).strip() for wnid in wnids]
    times = Counter(named)
    pairs = zip(named, wnids, strict=True)
    return tuple(f"{name} ({wnid})" if times[name] > 1 else name for name, wnid in pairs)


def _train_images(
    folder: Path, numbers: Mapping[str, int], skipped: SkippedFiles
) -> tuple[list[Path], list[int]]:
    """Return the training images of all classes, and their labels."""
    folders = {folder / wnid / "images": number for wnid, number in numbers.items()}
    images = _class_images(folders, skipped)
    unknown = sorted({child.name for child in folder.glob("*") if child.is_dir()} - set(numbers))
    if unknown:
        raise DataError(
            str(folder / unknown[0]),
            expected="a folder of a WordNet ID that wnids.txt lists",
            got=repr(unknown[0]),
            remedy="add it to wnids.txt, or remove the folder",
        )
    return images


def _val_images(
    folder: Path, numbers: Mapping[str, int], skipped: SkippedFiles
) -> tuple[list[Path], list[int]]:
    """Return the validation images that the annotations list, and their labels."""
    there = {file.name: file for file in (folder / "images").glob("*")}
    files: list[Path] = []
    labels: list[int] = []
    for place, line in enumerate(_lines(folder / ANNOTATIONS), 1):
        name, wnid, *_box = [*line.split("\t"), ""]
        if name not in there or wnid not in numbers:
            wrong = f"no {name} in {folder / 'images'}"
            raise DataError(
                f"{folder / ANNOTATIONS}, line {place}",
                expected="an image in val/images, a tab, and a WordNet ID that wnids.txt lists",
                got=f"the unknown ID {wnid!r}" if name in there else wrong,
                remedy="unpack the archive again, or remove the line",
            )
        files.append(there[name])
        labels.append(numbers[wnid])
    for file in sorted({*there.values()} - {*files}):
        skipped.add(f"file(s) that {ANNOTATIONS} does not name", file)
    return files, labels


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(
            str(file),
            expected="a text file of Tiny-ImageNet",
            got=type(cause).__name__,
            remedy="give the folder tiny-imagenet-200 as it was published; where val is sorted "
            "into folders of its classes, write folder:PATH",
        ) from cause
