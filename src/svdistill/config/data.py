"""Where images come from: what all commands that read a data set can be told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, get_args, get_origin, get_type_hints

from svdistill.common import ArgumentError, require_choice, require_count

# Stands for a network or for data that was given as a Python object.
OBJECT: Final = "object"


@dataclass(kw_only=True)
class DataConfig:
    """Images, and where to write.

    Args:
        output: Directory to make, of a run or of a knowledge store. A finished run is never
            overwritten.
        data: Where images come from: `digits`, `parquet:PATH`, `folder:PATH`, `hub:NAME` or
            `tiny_imagenet:PATH`.
        image_size: Side in pixels to which images are resized. If empty, as a teacher or pretrained
            network knows them, else as they are.
        classes_every: Keep every n-th class only.
        classes: `N@SEED` keeps N of these, drawn by their names; empty keeps all.
        train_size: Keep that many training images, the same share of each class; empty keeps all.
        dev_fraction: Share of the training images held out to choose the best epoch on; a store
            keeps no knowledge of them.
        unlabelled: For `distill` and `cache`, more training images, without labels: `folder:PATH`,
            `parquet:PATH`, `hub:NAME`, or `rest` for those that `train_size` leaves out. They are
            half of every batch; an epoch goes once over the labelled or the unlabelled ones,
            whichever last longer.
        label_column: Column of the labels in a table; empty for the one that is named like it.
        image_column: Column of the images in a table; empty for the one that is named like it.
        train_split: Split to train on, by its name; empty for the obvious one, `.` for a folder
            whose folders are all classes.
        test_split: Split to test on; empty for the obvious one, `cut` for a part of the training
            split.
        memory_limit_gb: Decoded images up to this size stay in memory; more are streamed.
        workers: Processes that decode streamed images; empty for one a core, up to 8.
        augmentation: `paper` (flip, rotation, crop), `crop_flip`, `photo` (a part of the image
            enlarged, flip, changed colours), `trivial` (the same with an operation of
            TrivialAugment in place of the colours) or `none`.
    """

    output: str
    data: str = "digits"
    image_size: int | None = None
    classes_every: int = 1
    classes: str | None = None
    train_size: int | None = None
    dev_fraction: float = 0.0
    unlabelled: str = ""
    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    memory_limit_gb: float = 8.0
    workers: int | None = None
    augmentation: Literal["paper", "crop_flip", "photo", "trivial", "none"] = "paper"

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
        """Raise unless each field of a `Literal` type has one of its values."""
        hints = get_type_hints(type(self))
        for name in (field.name for field in fields(self)):
            value, kinds = getattr(self, name), (hints[name], *get_args(hints[name]))
            choices = [get_args(kind) for kind in kinds if get_origin(kind) is Literal]
            if choices and not (value is None and type(None) in kinds):
                require_choice(name, value, choices[0])
