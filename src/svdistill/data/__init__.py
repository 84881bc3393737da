"""Data: labelled images by name, in batches on the device, and their augmentation."""

from svdistill.data.augmentation import Augmentation
from svdistill.data.sources import ImageData, load_images
from svdistill.data.splits import Batch, ImageSplit, ResidentSplit, StreamedSplit

__all__ = [
    "Augmentation",
    "Batch",
    "ImageData",
    "ImageSplit",
    "ResidentSplit",
    "StreamedSplit",
    "load_images",
]
