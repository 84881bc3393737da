"""Load a data set of labelled images by name: one call, one frozen result."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from svdistill.data.class_choice import chosen_classes, parse_draw
from svdistill.data.opening import open_images
from svdistill.data.selection import Part, keep_classes, split_part, training_part
from svdistill.data.splits import ImageSplit, ResidentSplit, StreamedSplit
from svdistill.errors import ArgumentError, DataError, require_count

SAMPLED_IMAGES: Final = 10_000
HASHED_IMAGES: Final = 256
SMALLEST_STD: Final = 1 / 255


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of labelled images, ready to train on.

    Attributes:
        train: the images to train on.
        dev: images held out of the training split to choose settings on, or None.
        test: the images to report accuracy on.
        class_names: name of each class; the label is its place.
        mean: mean of each channel of the training images, in 0 to 1.
        std: standard deviation of each channel, in 0 to 1.
        image_shape: ``(3, H, W)``.
        fingerprint: the same for the same images, labels, splits and class names. Counts in all
            labels, and of each split 256 images.
    """

    train: ImageSplit
    dev: ImageSplit | None
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def load_images(
    spec: str,
    *,
    image_size: int | None = None,
    classes_every: int = 1,
    classes: str | None = None,
    train_size: int | None = None,
    dev_fraction: float = 0.0,
    seed: int = 0,
    memory_limit_gb: float = 8.0,
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
            ``hub:NAME``: a data set of the Hugging Face hub, the only one that downloads.
        image_size: resize and crop all images to this height and width, 8 or more. None keeps
            their size, which must then be one and the same.
        classes_every: keep classes 0, n, 2n, ... and number them 0, 1, 2, ...
        classes: ``N@SEED``: of these keep N, drawn by their names as in `chosen_classes`. None
            keeps all.
        train_size: keep this many training images, stratified. None keeps all.
        dev_fraction: share of the training images to hold out as dev split, 0 to below 1.
        seed: decides which images `train_size` keeps and `dev_fraction` holds out.
        memory_limit_gb: decoded images that take more than this (in 1e9 bytes) are streamed.

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
    draw = None if classes is None else parse_draw(classes)
    opened = open_images(spec, image_size)
    chosen = chosen_classes(opened.class_names, classes_every, draw)
    names = tuple(opened.class_names[place] for place in chosen)
    train, test = (keep_classes(part, chosen) for part in (opened.train, opened.test))
    parts = {"train": train, "test": test}
    if dev_fraction > 0:
        kept = round(len(train.rows) * (1 - dev_fraction))
        parts["train"], parts["dev"] = split_part(train, kept, seed)
    parts["train"] = training_part(parts["train"], train_size, seed)
    for name, part in parts.items():
        if len(part.rows) == 0:
            raise DataError(
                f"{spec}, {name} split",
                expected="at least one image",
                got="none",
                remedy="use more images, another dev_fraction, or more classes",
            )
    decoded_bytes = sum(len(part.rows) for part in parts.values()) * math.prod(train.pictures.shape)
    make = _resident if decoded_bytes <= memory_limit_gb * 1e9 else _streamed
    splits = {name: make(part) for name, part in parts.items()}
    mean, std = _statistics(splits["train"], parts["train"])
    return ImageData(
        train=splits["train"],
        dev=splits.get("dev"),
        test=splits["test"],
        class_names=names,
        mean=mean,
        std=std,
        image_shape=train.pictures.shape,
        fingerprint=_fingerprint(names, parts),
    )


def _resident(part: Part) -> ResidentSplit:
    images = torch.from_numpy(part.pictures.read(part.rows))
    return ResidentSplit(images, torch.from_numpy(part.labels))


def _streamed(part: Part) -> StreamedSplit:
    return StreamedSplit(part.pictures, part.rows, torch.from_numpy(part.labels))


def _statistics(split: ImageSplit, part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
