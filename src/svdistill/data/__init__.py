"""Labelled images, from a name to batches on the device.

`load_images` goes four steps, each in its own modules:

1. Open (`opening`, with `folders`, `tables`, `columns` and `split_names`): a name such as
   ``folder:PATH`` becomes rows of encoded images with labels, a training and a test part.
2. Select (`selection`; `unlabelled` adds images without labels): classes and images, as `Subset`.
3. Split (`splits`, `image_files`): each subset is decoded in memory (`ResidentSplit`), or by worker
   processes when needed (`StreamedSplit`). `ImageData` holds the splits.
4. Batches: `ImageSplit.batches` yields `Batch`; `augmentation` normalises it and draws views.

A user's DataLoaders enter at the third step (`loaders`). What is not used, and what was chosen
among several, is a `DataWarning` (`data_warnings`).
"""

from svdistill.data.augmentation import Augmentation, NoAugmentation
from svdistill.data.data_warnings import DataWarning
from svdistill.data.image_data import ImageData, LoadingWatch, load_images
from svdistill.data.loaders import (
    LoaderSplit,
    global_states,
    images_from_loaders,
    seed_global_states,
    set_global_states,
)
from svdistill.data.opening import OpenedData, open_images
from svdistill.data.selection import Subset, keep_classes, stratified
from svdistill.data.split_names import AUTOMATIC, DataChoices
from svdistill.data.splits import (
    UNLABELLED,
    Batch,
    ImageSplit,
    ResidentSplit,
    StreamedSplit,
    stored_split,
)
from svdistill.data.unlabelled import MixedSplit, decode_files

__all__ = [
    "AUTOMATIC",
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "DataChoices",
    "DataWarning",
    "ImageData",
    "ImageSplit",
    "LoaderSplit",
    "LoadingWatch",
    "MixedSplit",
    "NoAugmentation",
    "OpenedData",
    "ResidentSplit",
    "StreamedSplit",
    "Subset",
    "decode_files",
    "global_states",
    "images_from_loaders",
    "keep_classes",
    "load_images",
    "open_images",
    "seed_global_states",
    "set_global_states",
    "stored_split",
    "stratified",
]
