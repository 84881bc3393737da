"""Load a data set of labelled images by name: one call, one frozen result."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from svdistill.common import ArgumentError, DataError, require_count
from svdistill.data.image_data import ImageData
from svdistill.data.opening import Opened, open_images
from svdistill.data.selection import (
    Part,
    check_presence,
    chosen_classes,
    keep_classes,
    parse_draw,
    split_part,
    training_part,
)
from svdistill.data.split_names import Wanted
from svdistill.data.splits import ResidentSplit, StoredSplit
from svdistill.data.streaming import StreamedSplit
from svdistill.data.unlabelled import REST, MixedSplit, open_unlabelled, without_labels

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


SAMPLED_IMAGES: Final = 10_000

HASHED_IMAGES: Final = 256

SMALLEST_STD: Final = 1 / 255


def load_images(
    spec: str | Dataset | DatasetDict,
    *,
    image_size: int | None = None,
    classes_every: int = 1,
    classes: str | None = None,
    train_size: int | None = None,
    dev_fraction: float = 0.0,
    seed: int = 0,
    memory_limit_gb: float = 8.0,
    workers: int | None = None,
    unlabelled: str | Dataset | DatasetDict | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
) -> ImageData:
    """Load a data set of labelled images.

    A data set without a test split gets one: a fixed, stratified fifth of its images (two fifths
    of the digits). Channel statistics come from the training images, from 10,000 of them where
    the images are streamed. (The numbers that Lee, Kim and Song use for CIFAR-100 count in the
    test images, and are up to 0.08 of 255 higher.)

    Args:
        spec: ``digits``: 1,797 grey digits that come with scikit-learn, enlarged to 16x16;
            ``parquet:PATH``: a folder with train-*.parquet and test-*.parquet, or one file;
            ``folder:PATH``: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``, or ``PATH/CLASS/*``;
            ``tiny_imagenet:PATH``: the folder tiny-imagenet-200 as published, tested on its val;
            ``hub:NAME``: a data set of the Hugging Face hub, the only one that downloads. Or a
            `datasets.Dataset` or `datasets.DatasetDict` with an image and a label column.
        image_size: resize and crop all images to this height and width, 8 or more. None keeps
            their size, which must then be one and the same.
        classes_every: keep classes 0, n, 2n, ... and number them 0, 1, 2, ...
        classes: ``N@SEED``: of these keep N, drawn by their names as in `chosen_classes`. None
            keeps all.
        train_size: keep this many training images, stratified. None keeps all.
        dev_fraction: share of the training images to hold out as dev split, 0 to below 1.
        seed: decides which images `train_size` keeps and `dev_fraction` holds out.
        memory_limit_gb: decoded images that take more than this (in 1e9 bytes) are streamed.
        workers: processes that decode each split that is streamed; None takes as many as there
            are cores, up to 8.
        unlabelled: more training images, without labels, so that `ImageData.train` is a
            `MixedSplit`: ``folder:PATH`` (files in any depth), ``parquet:PATH``, ``hub:NAME`` or
            tables as above, whose labels are not looked at; or ``rest``, the training images that
            `train_size` leaves out. The channel statistics are of the labelled ones alone.
        label_column: column of the labels in a table: class labels, integers or strings. None
            takes the one named like it, else the one with the most classes.
        image_column: column of the images in a table. None takes the one named like it, else the
            first.
        train_split: name of the split, or of the folder in ``folder:PATH``, to train on; ``.`` for
            a folder whose folders are all classes. None takes the one named like it.
        test_split: name of the split or folder to test on, or ``cut`` for a part of the training
            split. None takes the one named like it.

    Warns:
        DataWarning: what was left out, and what was chosen where there were several.

    Returns:
        The data set; uint8 images in memory, or streamed where they are too many.

    Raises:
        ArgumentError: if an argument is out of range or the scheme is unknown.
        DataError: if the data set is missing, damaged, empty or without labels.

    Example:
        >>> data = load_images("digits", dev_fraction=0.1)
        >>> len(data.train), len(data.dev), len(data.test), data.image_shape
        (970, 108, 719, (3, 16, 16))
    """
    for name, value, least in (("classes_every", classes_every, 1), ("seed", seed, 0)):
        require_count(name, value, least)
    _require_fraction("dev_fraction", dev_fraction, 1.0)
    _require_fraction("memory_limit_gb", memory_limit_gb, float("inf"))
    if workers is not None:
        require_count("workers", workers, 0)
    draw = None if classes is None else parse_draw(classes)
    wanted = Wanted(label_column, image_column, train_split, test_split)
    opened = open_images(spec, image_size, wanted)
    chosen = chosen_classes(opened.class_names, classes_every, draw)
    names = tuple(opened.class_names[place] for place in chosen)
    train, test = (keep_classes(part, chosen) for part in (opened.train, opened.test))
    parts = {"train": train, "test": test}
    if dev_fraction > 0:
        kept = round(len(train.rows) * (1 - dev_fraction))
        parts["train"], parts["dev"] = split_part(train, kept, seed)
    parts["train"], rest = training_part(parts["train"], train_size, seed)
    shape = train.pictures.shape
    if unlabelled == REST:
        parts["unlabelled"] = _without_labels(rest)
    elif unlabelled is not None:
        _require_uncut(spec, unlabelled, opened)
        parts["unlabelled"] = open_unlabelled(unlabelled, image_size, shape, wanted)
    source = spec if isinstance(spec, str) else type(spec).__name__
    _require_images(source, parts)
    check_presence(source, names, train.labels, test.labels)
    decoded_bytes = sum(len(part.rows) for part in parts.values()) * math.prod(shape)
    resident = decoded_bytes <= memory_limit_gb * 1e9
    splits = {
        name: stored_split(part, resident=resident, workers=workers) for name, part in parts.items()
    }
    mean, std = _statistics(splits["train"], parts["train"])
    mixed = "unlabelled" in splits
    return ImageData(
        train=MixedSplit(splits["train"], splits["unlabelled"]) if mixed else splits["train"],
        dev=splits.get("dev"),
        test=splits["test"],
        class_names=names,
        mean=mean,
        std=std,
        image_shape=shape,
        fingerprint=_fingerprint(names, parts),
    )


def _without_labels(rest: Part) -> Part:
    """What `train_size` leaves out."""
    if len(rest.rows) == 0:
        raise ArgumentError(
            "unlabelled",
            expected="another source than 'rest' where all training images have labels",
            got=repr(REST),
            remedy="give a train_size below their number",
        )
    return without_labels(rest)


def _require_uncut(
    spec: str | Dataset | DatasetDict, unlabelled: str | Dataset | DatasetDict, opened: Opened
) -> None:
    """Raise `ArgumentError` where test images that were cut out would come back without labels."""
    cut = opened.train.pictures is opened.test.pictures
    if cut and (unlabelled is spec or (isinstance(spec, str) and unlabelled == spec)):
        raise ArgumentError(
            "unlabelled",
            expected="other images than those of data, of which a part is the test split",
            got=repr(unlabelled) if isinstance(unlabelled, str) else type(unlabelled).__name__,
            remedy="give 'rest' with a train_size, or lay the test images apart in a split test",
        )


def _require_images(source: str, parts: dict[str, Part]) -> None:
    for name, part in parts.items():
        if len(part.rows) == 0:
            raise DataError(
                f"{source}, {name} split",
                expected="at least one image",
                got="none",
                remedy="use more images, another dev_fraction, or more classes",
            )


def stored_split(part: Part, *, resident: bool, workers: int | None = None) -> StoredSplit:
    """A part of a data set as a split: decoded now, or by so many workers when it is wanted."""
    labels = torch.from_numpy(part.labels)
    if resident:
        return ResidentSplit(torch.from_numpy(part.pictures.read(part.rows)), labels)
    return StreamedSplit(part.pictures, part.rows, labels, workers=workers)


def _statistics(split: StoredSplit, part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in 0 to 1, from exact counts of the 256 values."""
    if isinstance(split, ResidentSplit):
        images = split.images
    else:
        images = torch.from_numpy(part.pictures.read(_spread(part.rows, SAMPLED_IMAGES)))
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack(
        [torch.bincount(images[:, channel].flatten(), minlength=256) for channel in range(3)]
    )
    weights = counts / counts.sum(dim=1, keepdim=True).double()  # [3, 256]
    mean = weights @ values
    std = (weights @ values.square() - mean.square()).clamp_min(0).sqrt()
    # A channel that never changes would otherwise be divided by zero.
    return tuple(mean.tolist()), tuple(std.clamp_min(SMALLEST_STD).tolist())


def _fingerprint(class_names: tuple[str, ...], parts: dict[str, Part]) -> str:
    digest = hashlib.sha256(repr(class_names).encode())
    for name, part in parts.items():
        digest.update(f"{name} {len(part.rows)} {part.pictures.shape}".encode())
        digest.update(part.labels.tobytes())
        digest.update(part.pictures.read(_spread(part.rows, HASHED_IMAGES)).tobytes())
    return digest.hexdigest()[:16]


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` rows, evenly spread over all of them."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _require_fraction(argument: str, value: float, limit: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit:
        raise ArgumentError(
            argument,
            expected=f"a number from 0 to below {limit:g}",
            got=repr(value),
            remedy="choose one in this range",
        )
