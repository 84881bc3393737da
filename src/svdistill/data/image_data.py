"""`load_images` loads a data set of labelled images by name, ready to train on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from svdistill.common import ArgumentError, DataError, require_count, warn_of_data
from svdistill.data.augmentation import Augmentation, NoAugmentation
from svdistill.data.image_files import RESIZE, ImageSizeError, file_identities
from svdistill.data.opening import open_images
from svdistill.data.selection import (
    Subset,
    check_presence,
    keep_classes,
    parse_draw,
    select_classes,
    stratified,
    stratified_split,
    training_subset,
)
from svdistill.data.split_names import DataChoices
from svdistill.data.splits import ImageSplit, ResidentSplit, StoredSplit, stored_split
from svdistill.data.unlabelled import REST, MixedSplit, drop_labels, open_unlabelled

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


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
        class_names: name of each class, by its label.
        mean: mean of each channel of the labelled training images, in 0 to 1.
        std: standard deviation of each channel of these images, in 0 to 1.
        image_shape: ``(3, H, W)``, the shape of every image.
        fingerprint: hash that identifies the data set. It covers the class names, all labels and
            256 images of each split; with DataLoaders less, see `images_from_loaders`.
        prepared: whether the images are already normalised and augmented, as with DataLoaders.
    """

    train: ImageSplit
    dev: ImageSplit | None
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, ...]
    fingerprint: str
    prepared: bool = False

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def augmentation(self, name: str) -> Augmentation | NoAugmentation:
        """Return the module that normalises these images and draws augmented views of them.

        Args:
            name: name of the augmentation, see `Augmentation`; ignored if `prepared` is True.
        """
        if self.prepared:
            return NoAugmentation()
        return Augmentation(name, self.image_shape[-1], self.mean, self.std)


class LoadingWatch:
    """Callbacks for the progress of `load_images`; this base class does nothing."""

    def classes(self, names: tuple[str, ...]) -> None:
        """Called with the names of the kept classes before decoding; may raise to stop loading."""

    def image(self, number: int, total: int) -> None:
        """Called after the `number`-th of `total` images has been decoded."""


def load_images(
    spec: str | Dataset | DatasetDict,
    *,
    image_size: int | None = None,
    fallback_size: int | None = None,
    classes_every: int = 1,
    classes: str | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    dev_fraction: float = 0.0,
    seed: int = 0,
    memory_limit_gb: float = 8.0,
    workers: int | None = None,
    unlabelled: str | Dataset | DatasetDict | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    watch: LoadingWatch | None = None,
) -> ImageData:
    """Load a data set of labelled images.

    If the data set has no test split, a fixed, stratified fifth of its images becomes the test
    split (two fifths for ``digits``). The channel statistics are those of the training images, or
    of 10,000 of them if the images are streamed, that is, decoded on demand. (The statistics that
    Lee, Kim and Song use for CIFAR-100 include the test images, and are up to 0.08 of 255 higher.)

    Args:
        spec: ``digits``: 1,797 grey digits that come with scikit-learn, enlarged to 16x16;
            ``parquet:PATH``: a folder with train-*.parquet and test-*.parquet, or one file;
            ``folder:PATH``: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``, or ``PATH/CLASS/*``;
            ``tiny_imagenet:PATH``: the folder tiny-imagenet-200 as published, whose ``val`` is the
            test split; ``hub:NAME``: a data set of the Hugging Face hub (only this downloads). Or
            a `datasets.Dataset` or `datasets.DatasetDict` with an image and a label column.
        image_size: resize and crop all images to this height and width, 8 or more. None keeps
            their size, which must be the same for all.
        fallback_size: the image size if `image_size` is None and the images differ in size or are
            not square. None raises `DataError` for such images.
        classes_every: keep only classes 0, n, 2n, ... and renumber them 0, 1, 2, ...
        classes: ``N@SEED``: of the classes that `classes_every` keeps, keep a random N, drawn as
            in `select_classes`; ``rest:N@SEED``: keep those not drawn. None keeps all.
        train_size: keep this many training images, stratified. None keeps all.
        test_size: keep at most this many test images, stratified. None keeps all.
        dev_fraction: fraction of the training images to hold out as the dev split, 0 to below 1.
        seed: decides which images `train_size` and `test_size` keep and `dev_fraction` holds out.
        memory_limit_gb: if all decoded images take more than this (in 1e9 bytes), they are
            streamed instead of kept in memory.
        workers: number of processes that decode each streamed split; None: one per core, up to 8.
        unlabelled: additional training images without labels, which make `ImageData.train` a
            `MixedSplit`: ``folder:PATH`` (files at any depth), ``parquet:PATH``, ``hub:NAME`` or a
            `datasets` object as above, any labels of which are ignored; or ``rest``, the training
            images that `train_size` leaves out. They do not enter the channel statistics.
        label_column: column of a table that holds the labels: class labels, integers or strings.
            None takes a column with a usual name such as ``label``, else the class-label column
            with the most classes.
        image_column: column of a table that holds the images. None takes a column with a usual
            name such as ``image``, else the first image column.
        train_split: name of the split, or of the folder in ``folder:PATH``, to train on; ``.`` if
            all subfolders of PATH are classes. None takes one with a usual name such as ``train``.
        test_split: name of the split or folder to test on, or ``cut`` to cut a test split from the
            training split. None takes one with a usual name such as ``test`` or ``val``.
        watch: callbacks, called with the kept classes and after each image that is decoded.

    Warns:
        DataWarning: if files, splits or columns are left out or one of several had to be chosen.

    Returns:
        The data set, with uint8 images in memory, or streamed if above the memory limit.

    Raises:
        ArgumentError: if an argument is out of range or `spec` is of an unknown kind.
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
    for name, optional, least in (
        *(("workers", workers, 0), ("fallback_size", fallback_size, 8)),
        ("test_size", test_size, 1),
    ):
        if optional is not None:
            require_count(name, optional, least)
    draw = None if classes is None else parse_draw(classes)
    choices = DataChoices(label_column, image_column, train_split, test_split)
    source = spec if isinstance(spec, str) else type(spec).__name__
    opened = open_images(spec, image_size, choices)
    chosen = select_classes(opened.class_names, classes_every, draw)
    names = tuple(opened.class_names[place] for place in chosen)
    watch = watch or LoadingWatch()
    watch.classes(names)
    train, test = (keep_classes(subset, chosen) for subset in (opened.train, opened.test))
    if test_size is not None:
        test = test.take(stratified(test.labels, min(test_size, len(test.labels)), seed))
    subsets = {"train": train, "test": test}
    if dev_fraction > 0:
        kept = round(len(train.rows) * (1 - dev_fraction))
        subsets["train"], subsets["dev"] = stratified_split(train, kept, seed)
    subsets["train"], rest = training_subset(subsets["train"], train_size, seed)
    if unlabelled == REST:
        subsets["unlabelled"] = _unlabelled_rest(rest)
    elif unlabelled is not None:
        if train.pictures is test.pictures:
            _require_other_images(spec, unlabelled)
        subsets["unlabelled"] = open_unlabelled(unlabelled, image_size, choices)
    _require_images(source, subsets)
    check_presence(source, names, subsets["train"].labels, test.labels)
    _check_repeats(source, subsets)
    try:
        return _decode(source, names, subsets, watch, memory_limit_gb, workers)
    except ImageSizeError:
        if fallback_size is None:
            raise
    warn_of_data(f"{source}: images differ in size or are not square, resized to {fallback_size}")
    subsets = {
        name: subset._replace(pictures=subset.pictures.resized(fallback_size))
        for name, subset in subsets.items()
    }
    return _decode(source, names, subsets, watch, memory_limit_gb, workers)


def _decode(
    source: str,
    names: tuple[str, ...],
    subsets: dict[str, Subset],
    watch: LoadingWatch,
    memory_limit_gb: float,
    workers: int | None,
) -> ImageData:
    """Decode the chosen images, or set them up for streaming, and build the `ImageData`."""
    shape = _common_shape(source, subsets)
    total, number = sum(len(subset.rows) for subset in subsets.values()), count(1)
    resident = total * math.prod(shape) <= memory_limit_gb * 1e9

    def each() -> None:
        watch.image(next(number), total)

    splits = {
        name: stored_split(subset, resident=resident, workers=workers, each=each)
        for name, subset in subsets.items()
    }
    train: ImageSplit = splits["train"]
    mean, std = _statistics(splits["train"], subsets["train"])
    if "unlabelled" in splits:
        train = MixedSplit(splits["train"], splits["unlabelled"])
    return ImageData(
        train=train,
        dev=splits.get("dev"),
        test=splits["test"],
        class_names=names,
        mean=mean,
        std=std,
        image_shape=shape,
        fingerprint=_fingerprint(source, names, subsets),
    )


def _unlabelled_rest(rest: Subset) -> Subset:
    """Return `rest`, the training images that `train_size` leaves out, without their labels."""
    if len(rest.rows) == 0:
        raise ArgumentError(
            "unlabelled",
            expected="another source than 'rest' where all training images have labels",
            got=repr(REST),
            remedy="give a train_size below their number",
        )
    return drop_labels(rest)


def _require_other_images(
    spec: str | Dataset | DatasetDict, unlabelled: str | Dataset | DatasetDict
) -> None:
    """Raise `ArgumentError` if test images cut from `spec` would also be unlabelled images."""
    same = unlabelled is spec or unlabelled == spec
    if isinstance(spec, str) and isinstance(unlabelled, str):
        kinds, paths = zip(*(resolved_place(text) for text in (spec, unlabelled)), strict=True)
        overlap = paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])
        # Folders of images may overlap: `_check_repeats` compares their files one by one.
        same |= kinds == ("parquet", "parquet") and overlap
        same |= kinds == ("folder", "folder") and paths[0] == paths[1]
    if same:
        raise ArgumentError(
            "unlabelled",
            expected="other images than those of data, of which a part is the test split",
            got=repr(unlabelled) if isinstance(unlabelled, str) else type(unlabelled).__name__,
            remedy="give 'rest' with a train_size, or put the test images into a split test",
        )


def resolved_place(spec: str) -> tuple[str, Path]:
    """Split a spec such as ``folder:PATH`` into its scheme and its absolute path."""
    scheme, _, place = spec.partition(":")
    return scheme, Path(place).expanduser().resolve()


def _require_images(source: str, subsets: dict[str, Subset]) -> None:
    for name, subset in subsets.items():
        if len(subset.rows) == 0:
            raise DataError(
                f"{source}, {name} split",
                expected="at least one image",
                got="none",
                remedy="use more images, another dev_fraction, or more classes",
            )


def _check_repeats(source: str, subsets: dict[str, Subset]) -> None:
    """Warn about image files that are used twice, for example through symbolic links.

    Raises `DataError` if every test image is also in the train, dev or unlabelled split.
    """
    files = {
        name: file_identities(subset.pictures.paths(subset.rows))
        for name, subset in subsets.items()
    }
    for name in ("train", "test"):
        again = len(files[name]) - len(set(files[name]))
        if again:
            warn_of_data(f"{source}: {again:,} image(s) in {name} are files that are in it already")
    test = set(files["test"])
    for name in ("train", "dev", "unlabelled"):
        common = test.intersection(files.get(name, ()))
        if test and common == test:
            raise DataError(
                source,
                expected="test images other than the training images",
                got=f"the same files to test on and in the {name} split",
                remedy="remove the link from one to the other; --test_split cut cuts a test split "
                "from the training images",
            )
        if common:
            warn_of_data(
                f"{source}: {len(common):,} of {len(test):,} test images are in {name} too"
            )


def _common_shape(source: str, subsets: dict[str, Subset]) -> tuple[int, ...]:
    """Return the shape that all images share, or raise `ImageSizeError` if there is none."""
    shape = subsets["train"].pictures.shape
    for name, subset in subsets.items():
        if subset.pictures.shape != shape:
            raise ImageSizeError(
                source,
                expected=f"{name} images of {shape[1]}x{shape[2]} like the training images",
                got="x".join(map(str, subset.pictures.shape[1:])),
                remedy=RESIZE,
            )
    return shape


def _statistics(split: StoredSplit, subset: Subset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for pixels scaled to 0 to 1.

    They come from exact counts of the 256 pixel values, not from rounded sums over pixels.
    """
    if isinstance(split, ResidentSplit):
        images = split.images
    else:
        images = torch.from_numpy(subset.pictures.read(_spread(subset.rows, SAMPLED_IMAGES)))
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack(
        [torch.bincount(images[:, channel].flatten(), minlength=256) for channel in range(3)]
    )
    weights = counts / counts.sum(dim=1, keepdim=True).double()  # [3, 256]
    mean = weights @ values
    std = (weights @ values.square() - mean.square()).clamp_min(0).sqrt()
    # The minimum keeps normalisation from dividing a constant channel by zero.
    return tuple(mean.tolist()), tuple(std.clamp_min(SMALLEST_STD).tolist())


def _fingerprint(source: str, class_names: tuple[str, ...], subsets: dict[str, Subset]) -> str:
    """Hash class names, labels and some images; warns if train and test are the same."""
    digest = hashlib.sha256(repr(class_names).encode())
    contents = {}
    for name, subset in subsets.items():
        digest.update(f"{name} {len(subset.rows)} {subset.pictures.shape}".encode())
        images = subset.pictures.read(_spread(subset.rows, HASHED_IMAGES))
        contents[name] = subset.labels.tobytes() + images.tobytes()
        digest.update(contents[name])
    if contents["train"] == contents["test"]:
        warn_of_data(f"{source}: the test images are the training images")
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
