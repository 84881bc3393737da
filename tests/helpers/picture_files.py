"""Small data sets, in memory and on disk."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image as ImageFeature
from PIL import Image

NAMES = ("ant", "bee", "cat")


def noise(count, size=8, seed=0):
    """Images of which no two are alike, uint8 [N, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def in_turn(count):
    """Labels 0, 1, 2, 0, 1, 2, ..."""
    return np.arange(count) % len(NAMES)


def write_folder(root, images, labels, names=NAMES):
    """One PNG file per image, in the folder of its class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return root


def table(images, labels, names=NAMES):
    """A table with the columns `img` and `label`."""
    features = Features(img=ImageFeature(), label=ClassLabel(names=list(names)))
    columns = {"img": [Image.fromarray(image) for image in images], "label": list(labels)}
    return Dataset.from_dict(columns, features=features)


def write_parquet(path, images, labels, names=NAMES):
    """One Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table(images, labels, names).to_parquet(path)
    return path


def in_order(split):
    """All images [N, H, W, 3] and labels of a split, in stored order, by way of its batches."""
    batches = list(split.batches(7, device="cpu", order_seed=None))
    images = np.concatenate([batch.images.numpy() for batch in batches])
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    return images.transpose(0, 2, 3, 1), labels


def labels_of(tables):
    """The labels of all splits."""
    return {name: tables.labels(name).tolist() for name in tables.splits}
