"""The options on images, which all commands that read a data set share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, Self, get_args, get_origin, get_type_hints

from svdistill.common import ArgumentError, require_choice, require_count

# The value of an option (`network`, `data`) that was given as a Python object.
OBJECT: Final = "object"


@dataclass(kw_only=True)
class DataConfig:
    """The images and the output directory.

    Args:
        output: Directory of the new run or knowledge store. A finished run is never overwritten.
        data: Where images come from: `digits`, `parquet:PATH`, `folder:PATH`, `hub:NAME` or
            `tiny_imagenet:PATH`.
        image_size: Side in pixels to which images are resized. If empty, the size of the store, or
            that the teacher or the pretrained network was trained with. Otherwise images keep their
            size; if they differ in size or are not square, they get that of the network to train,
            if it is a library's.
        classes_every: Keep every n-th class only.
        classes: `N@SEED` keeps N of these, drawn at random by their names, `rest:N@SEED` keeps
            the classes that `N@SEED` leaves out; empty keeps all.
        train_size: Keep that many training images, the same share of each class; empty keeps all.
        test_size: Keep at most that many test images, the same share of each class; empty keeps
            all.
        dev_fraction: Share of the training images held out to choose the best epoch on; a store
            keeps no knowledge of them.
        unlabelled: For `distill` and `cache`, more training images, without labels: `folder:PATH`,
            `parquet:PATH`, `hub:NAME`, or `rest` for those that `train_size` leaves out. They are
            half of every batch; an epoch goes once over the labelled or the unlabelled ones,
            whichever last longer.
        label_column: Column of the labels in a table; empty for the one with a usual name.
        image_column: Column of the images in a table; empty for the one with a usual name.
        train_split: Name of the split to train on; empty for the one with a usual name, `.` for a
            folder whose subfolders are all classes.
        test_split: Name of the split to test on; empty for the one with a usual name, `cut` for a
            part of the training split.
        memory_limit_gb: Decoded images up to this size are kept in memory; more are streamed.
        workers: Processes that decode streamed images; empty for one per core, up to 8.
        augmentation: `paper` (flip, rotation, crop), `crop_flip`, `photo` (random resized crop,
            flip, colour jitter), `trivial` (the same with an operation of TrivialAugment in place
            of the colour jitter) or `none`.
    """

    output: str
    data: str = "digits"
    image_size: int | None = None
    classes_every: int = 1
    classes: str | None = None
    train_size: int | None = None
    test_size: int | None = None
    dev_fraction: float = 0.0
    unlabelled: str = ""
    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    memory_limit_gb: float = 8.0
    workers: int | None = None
    augmentation: Literal["paper", "crop_flip", "photo", "trivial", "none"] = "paper"

    def usual_values(self) -> dict[str, Any]:
        """The values of options that, if left empty, depend on other options."""
        return {}

    def left_empty(self) -> dict[str, Any]:
        """The options of `usual_values` that are left empty, with the values that they take."""
        usual = self.usual_values().items()
        return {name: value for name, value in usual if getattr(self, name) is None}

    def filled(self) -> Self:
        """A copy in which options that are left empty have their values of `usual_values`."""
        return replace(self, **self.left_empty())

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        if not self.output:
            raise ArgumentError(
                "output", expected="a directory", got="nothing", remedy="give --output DIR"
            )
        require_count("classes_every", self.classes_every)
        if self.workers is not None:
            require_count("workers", self.workers, 0)
        self._check_choices()

    def _check_choices(self) -> None:
        """Raise `ArgumentError` unless each field of a `Literal` type has one of its values."""
        hints = get_type_hints(type(self))
        for name in (field.name for field in fields(self)):
            value, kinds = getattr(self, name), (hints[name], *get_args(hints[name]))
            choices = [get_args(kind) for kind in kinds if get_origin(kind) is Literal]
            if choices and not (value is None and type(None) in kinds):
                require_choice(name, value, choices[0])
