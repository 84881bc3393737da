"""Images that PyTorch's DataLoaders of the user's own have prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch.utils.data import DataLoader

from svdistill.data.image_data import ImageData
from svdistill.data.loader_split import LoaderSplit
from svdistill.data.splits import UNLABELLED
from svdistill.errors import ArgumentError


def images_from_loaders(
    train: DataLoader,
    test: DataLoader,
    class_names: Sequence[str],
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> ImageData:
    """Train on what two DataLoaders yield, as it comes: nothing is normalised or augmented.

    Batches are ``(images, labels)``: floats ``[B, 3, H, W]`` and int64 ``[B]``. Their size and
    order are the loader's own, and so a run's `batch_size`, `augmentation` and `views` have no
    effect. A label of -1 marks a training image without one; every batch should hold some with one.

    Each pass sets the global random states of torch, NumPy and Python to a seed of its own while
    the loader works, and sets them back: two equal runs see the same shuffling and the same random
    transforms, and so does a run that goes on; within an epoch the loader makes the batches before
    once more. What draws from a generator that the loader was given, or from workers that persist,
    is the user's to seed.

    A knowledge store cannot be made of such images: nothing says which of them is which.

    Args:
        train: the images to train on.
        test: the images to report accuracy on.
        class_names: name of each class; the label is its place.
        mean: with which the images were normalised, per channel, to be noted beside the weights.
        std: likewise.

    Returns:
        The data set. Its fingerprint tells class names, the number of images and their shape.

    Raises:
        ArgumentError: a loader without a length, or batches that are something else.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10) % 2)
        >>> train, test = (DataLoader(pairs, batch_size=4, shuffle=s) for s in (True, False))
        >>> data = images_from_loaders(train, test, ["ant", "bee"])
        >>> data.image_shape, len(data.train), data.train.steps(batch_size=1)
        ((3, 8, 8), 10, 3)
    """
    names = tuple(class_names)
    if len(names) < 2:
        raise ArgumentError(
            "class_names", expected="2 or more", got=len(names), remedy="name every class"
        )
    training = LoaderSplit(train, len(names), least_label=UNLABELLED)
    testing = LoaderSplit(test, len(names))
    shape = tuple(testing.first(1, "cpu").images.shape[1:])
    told = f"{names} {shape} {len(training)} {len(testing)}"
    return ImageData(
        train=training,
        dev=None,
        test=testing,
        class_names=names,
        mean=tuple(mean),
        std=tuple(std),
        image_shape=shape,
        fingerprint=hashlib.sha256(told.encode()).hexdigest()[:16],
        prepared=True,
    )
