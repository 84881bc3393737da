"""Data: images by name or by a loader, in batches on the device, and their augmentation."""

from svdistill.data.augmentation import Augmentation
from svdistill.data.image_data import ImageData
from svdistill.data.loader_split import LoaderSplit
from svdistill.data.loaders import images_from_loaders
from svdistill.data.mixed import MixedSplit
from svdistill.data.notes import DataWarning
from svdistill.data.prepared import Prepared
from svdistill.data.sources import load_images
from svdistill.data.splits import UNLABELLED, Batch, ImageSplit, ResidentSplit
from svdistill.data.streamed import StreamedSplit

__all__ = [
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "DataWarning",
    "ImageData",
    "ImageSplit",
    "LoaderSplit",
    "MixedSplit",
    "Prepared",
    "ResidentSplit",
    "StreamedSplit",
    "images_from_loaders",
    "load_images",
]
