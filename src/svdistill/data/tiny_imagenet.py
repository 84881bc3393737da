"""Tiny-ImageNet in the layout in which Stanford published it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from svdistill.data.folders import table_of_files
from svdistill.data.image_files import class_images
from svdistill.data.notes import LeftOut
from svdistill.data.tables import Tables
from svdistill.errors import DataError

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
