"""Images by name or by a loader, in batches on the device, and their augmentation."""

from svdistill.data.augmentation import Augmentation
from svdistill.data.image_data import ImageData, Prepared
from svdistill.data.loaders import LoaderSplit, images_from_loaders
from svdistill.data.notes import DataWarning
from svdistill.data.opening import Opened, open_images
from svdistill.data.random_views import global_states, seed_global_states, set_global_states
from svdistill.data.selection import Part, keep_classes, stratified
from svdistill.data.sources import load_images, stored_split
from svdistill.data.split_names import ANY, Wanted
from svdistill.data.splits import UNLABELLED, Batch, ImageSplit, ResidentSplit
from svdistill.data.streaming import StreamedSplit
from svdistill.data.unlabelled import MixedSplit, decode_files

__all__ = [
    "ANY",
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "DataWarning",
    "ImageData",
    "ImageSplit",
    "LoaderSplit",
    "MixedSplit",
    "Opened",
    "Part",
    "Prepared",
    "ResidentSplit",
    "StreamedSplit",
    "Wanted",
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
