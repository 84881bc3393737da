"""A folder of digits as a reader's own images: data/train/CLASS/*.png and data/test/CLASS/*.png."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

CLASSES = ("nought", "one", "two")
TRAIN, TEST = 8, 4  # images a class
SIDE = 32


def write_image_folder(folder: Path) -> None:
    """Write so many images of a few classes, enlarged."""
    digits = load_digits()
    for label, name in enumerate(CLASSES):
        found = digits.images[digits.target == label][: TRAIN + TEST]
        for place, values in enumerate(found):
            split = "train" if place < TRAIN else "test"
            path = folder / split / name / f"{place:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((values * 15).astype(np.uint8)).convert("RGB")
            picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
