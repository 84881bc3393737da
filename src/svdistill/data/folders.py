"""Images in folders: one folder a class, or as Tiny-ImageNet is published."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image, features

from svdistill.common import ArgumentError, DataError
from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.split_names import ANY, CUT, HERE, Wanted, folder_role, split_role, wanted_split
from svdistill.data.tables import ONLY_NAME, Tables

if TYPE_CHECKING:
    from datasets import Dataset


# Formats that Pillow knows by name, and decodes not at all or with a program beside it.
STUBS: Final = ("BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF")

OPTIONAL: Final = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}

# What macOS packs beside the files of an archive.
HIDDEN: Final = ("__MACOSX",)


def image_suffixes() -> tuple[str, ...]:
    """The suffixes of files that Pillow reads as it is installed, in lower case.

    Example:
        >>> {".png", ".jpg", ".jfif", ".pgm", ".bmp"} <= set(image_suffixes())
        True
    """
    known = Image.registered_extensions()
    formats = {name for name in {*Image.OPEN, "MPO"} if name not in STUBS}  # MPO opens as JPEG
    missing = {name for name, codec in OPTIONAL.items() if not features.check(codec)}
    return tuple(sorted(end.lower() for end, kind in known.items() if kind in formats - missing))


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is none of the data: its name begins with a dot, or is macOS's."""
    return path.name.startswith(".") or path.name in HIDDEN


def class_images(folder: Path, left_out: LeftOut) -> list[Path]:
    """The images of one class, in any depth.

    Raises:
        DataError: there is none.
    """
    images = images_below(folder, left_out)
    if not images:
        raise no_images(folder, "images of one class", "add images, or remove the class")
    return images


def images_below(folder: Path, left_out: LeftOut, skipped: Collection[Path] = ()) -> list[Path]:
    """The images of a folder, in any depth and in the order of their paths.

    Args:
        folder: where to look.
        left_out: counts what is there and not read: hidden files and folders, links to folders,
            folders named like images, and files of other suffixes.
        skipped: folders that are not gone into, and not counted.

    Raises:
        DataError: a folder cannot be listed.
    """
    suffixes = image_suffixes()
    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        kept = []
        for path in sorted(Path(parent, name) for name in folders):
            if path in skipped:
                continue
            if is_hidden(path):
                left_out.add("hidden folder(s)", path, count_images(path))
            elif path.is_symlink():
                left_out.add("link(s) to folders, not followed", path)
            elif path.suffix.lower() in suffixes:
                left_out.add("folder(s) named like images", path, count_images(path))
            else:
                kept.append(path.name)
        folders[:] = kept
        for file in (Path(parent, name) for name in files):
            if is_hidden(file):
                left_out.add("hidden file(s)", file)
            elif file.suffix.lower() in suffixes:
                images.append(file)
            else:
                left_out.add_suffix(file)
    return sorted(images)


def count_images(folder: Path) -> int:
    """How many files below a folder have a suffix of an image."""
    suffixes = image_suffixes()
    return sum(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def no_images(folder: Path, expected: str, remedy: str) -> DataError:
    """The error of a folder without images."""
    got = "none with a suffix of " + ", ".join(image_suffixes())
    return DataError(str(folder), expected=expected, got=got, remedy=remedy)


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return  # a folder that is not there has no images
    raise DataError(
        str(error.filename),
        expected="a folder that can be listed",
        got=str(error.strerror),
        remedy="check its permissions and whether it is still there",
    ) from error


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


ANNOTATIONS = "val_annotations.txt"


def read_tiny_imagenet(path: Path) -> Tables:
    """List ``train/WNID/images/*`` and what ``val/val_annotations.txt`` names in ``val/images``.

    ``val`` is the test split, as in what people report: the published ``test`` has no labels. The
    classes are those of ``wnids.txt`` in alphabetical order, named by ``words.txt``.
    """
    wnids = sorted(set(_lines(path / "wnids.txt")))
    words = dict(line.split("\t", 1) for line in _lines(path / "words.txt") if "\t" in line)
    names = name_classes(wnids, words)
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    left_out = LeftOut(path)
    splits = {
        "train": table_of_files(*_train_images(path / "train", numbers, left_out), names),
        "val": table_of_files(*_val_images(path / "val", numbers, left_out), names),
    }
    left_out.tell()
    return Tables(str(path), splits, "image", "label", names)


def name_classes(wnids: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Name classes by their words, or by their WordNet ID where there are none.

    Args:
        wnids: the WordNet IDs of the classes.
        words: the words of WordNet IDs, of these and of others.

    Returns:
        The names, no two alike: classes of the same words have their IDs behind them.

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
    folder: Path, numbers: Mapping[str, int], left_out: LeftOut
) -> tuple[list[Path], list[int]]:
    """The files of all classes, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for wnid, number in numbers.items():
        images = class_images(folder / wnid / "images", left_out)
        files += images
        labels += [number] * len(images)
    unknown = sorted({child.name for child in folder.glob("*") if child.is_dir()} - set(numbers))
    if unknown:
        raise DataError(
            str(folder / unknown[0]),
            expected="a folder of a WordNet ID that wnids.txt lists",
            got=repr(unknown[0]),
            remedy="add it to wnids.txt, or remove the folder",
        )
    return files, labels


def _val_images(
    folder: Path, numbers: Mapping[str, int], left_out: LeftOut
) -> tuple[list[Path], list[int]]:
    """The files that the annotations name, and their labels."""
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
        left_out.add(f"file(s) that {ANNOTATIONS} does not name", file)
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
