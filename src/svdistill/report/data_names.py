"""The images of a run as people name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from svdistill.training.config import OBJECT

# By what a configuration says as a whole or before the colon; by the last part of a path.
SCHEME_NAMES: Final = {
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "Tiny-ImageNet",
    OBJECT: "images given in Python",
}
DATA_NAMES: Final = {"cifar100": "CIFAR-100", "cifar-100": "CIFAR-100", "imagenet": "ImageNet"}


def dataset_name(config: Mapping[str, Any]) -> str:
    """The data set of a run as people name it.

    Example:
        >>> dataset_name({"data": "parquet:data/cifar100"})
        'CIFAR-100'
    """
    scheme, _, place = str(config["data"]).partition(":")
    name = Path(place or scheme).name
    return SCHEME_NAMES.get(scheme) or DATA_NAMES.get(name.lower(), name)


def class_choice(config: Mapping[str, Any]) -> str:
    """Which of its classes a run kept.

    Example:
        >>> class_choice({"classes_every": 5}), class_choice({"classes": "50@0"})
        ('one class in 5', '50 classes')
    """
    every, drawn = config.get("classes_every", 1), config.get("classes")
    chosen = [f"one class in {every}"] if every > 1 else []
    chosen += [f"{drawn.partition('@')[0]} classes"] if drawn else []
    return ", ".join(chosen) or "all classes"
