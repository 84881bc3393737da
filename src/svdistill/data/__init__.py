"""Load labelled images by name and read them in batches on a device.

Loading and reading take four steps, each in its own modules:

1. Open (`opening`, with `folders`, `tables`, `columns` and `split_names`): a name such as
   ``folder:PATH`` leads to tables of encoded images with labels, one to train and one to test on.
2. Select (`selection`; `unlabelled` adds images without labels): keep some of the classes and
   images. A `Subset` lists the rows that are kept.
3. Split (`splits`, `image_files`): each subset is decoded into memory (`ResidentSplit`), or on
   demand by worker processes (`StreamedSplit`). `ImageData` holds the splits.
4. Batches: `ImageSplit.batches` yields a `Batch` at a time; `augmentation` normalises its images
   and draws random views of them.

A user's own DataLoaders replace the first three steps (`loaders`). A `DataWarning` tells which
files, splits or columns are not used, and which one was chosen among several.
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
    resolved_place as resolved_place,
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
