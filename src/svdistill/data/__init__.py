"""Labelled images, from a name to batches on the device.

`load_images` goes four steps, each in its own modules:

1. Open (`opening`, with `folders`, `tables`, `columns` and `split_names`): a name such as
   ``folder:PATH`` becomes rows of encoded images with labels, a training and a test part.
2. Select (`selection`; `unlabelled` adds images without labels): classes and images, as `Subset`.
3. Split (`splits`, `image_files`): each subset is decoded in memory (`ResidentSplit`), or by worker
   processes when needed (`StreamedSplit`). `ImageData` holds the splits.
4. Batches: `ImageSplit.batches` yields `Batch`; `augmentation` normalises it and draws views.

A user's DataLoaders enter at the third step (`loaders`). What is not used, and what was chosen
among several, is a `DataWarning`.
"""

from svdistill.common import DataWarning as DataWarning
from svdistill.data.augmentation import (
    Augmentation as Augmentation,
    NoAugmentation as NoAugmentation,
)
from svdistill.data.image_data import (
    ImageData as ImageData,
    LoadingWatch as LoadingWatch,
    load_images as load_images,
)
from svdistill.data.image_files import decode_files as decode_files
from svdistill.data.loaders import (
    LoaderSplit as LoaderSplit,
    global_states as global_states,
    images_from_loaders as images_from_loaders,
    seed_global_states as seed_global_states,
    set_global_states as set_global_states,
)
from svdistill.data.opening import OpenedData as OpenedData, open_images as open_images
from svdistill.data.selection import (
    Subset as Subset,
    keep_classes as keep_classes,
    stratified as stratified,
)
from svdistill.data.split_names import AUTOMATIC as AUTOMATIC, DataChoices as DataChoices
from svdistill.data.splits import (
    UNLABELLED as UNLABELLED,
    Batch as Batch,
    ImageSplit as ImageSplit,
    ResidentSplit as ResidentSplit,
    StreamedSplit as StreamedSplit,
    stored_split as stored_split,
)
from svdistill.data.unlabelled import MixedSplit as MixedSplit
