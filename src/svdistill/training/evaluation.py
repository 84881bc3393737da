"""`evaluate`: accuracy of a trained network on the test images of a data set."""

from __future__ import annotations

import contextlib
import math
import shlex
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from svdistill.common import ArgumentError, DataError, RunError, SVDistillError
from svdistill.config import OBJECT, TrainConfig
from svdistill.data import (
    AUTOMATIC,
    Augmentation,
    DataChoices,
    ImageData,
    NoAugmentation,
    OpenedData,
    Subset,
    keep_classes,
    open_images,
    stored_split,
    stratified,
)
from svdistill.networks import build_network
from svdistill.runs import (
    RunDirectory,
    WeightsCard,
    load_student,
    read_card,
    read_config,
    weights_file,
)
from svdistill.training.metrics import Evaluation, EvaluationImages, evaluate_network
from svdistill.training.setup import choose_device

SEED: Final = 0  # seed of the random choice of `count` images
RESIDENT_BYTES: Final = 8e9


def load_test_images(
    run: str | Path,
    data: str | ImageData | None = None,
    *,
    count: int | None = None,
    split: str = "test",
) -> EvaluationImages:
    """Load the test images that a trained network is evaluated on.

    Images are resized to the network's training size. If the data has more classes than the
    network, only images of the network's classes are kept; classes are matched by name.

    Args:
        run: a run directory, or a `.safetensors` file that a run wrote.
        data: a source of images, see `load_images`; or images of the network's classes; or None for
            the data that the run was trained on, as named by the `config.yaml` beside the weights.
        count: maximum number of images, the same share of each class; None for all.
        split: `"test"` or `"train"`; neither is augmented.

    Returns:
        The images, with labels in the order of the network's logits, and their normalisation.

    Raises:
        SVDistillError: weights or data cannot be read, or the data's classes do not fit.
    """
    card = require_card(run)
    if isinstance(data, ImageData):
        return _given(card, data, split)
    if data is None:
        data, opened = _open_own(Path(run), card.image_size)
    else:
        opened = open_images(data, card.image_size, _chosen_for(Path(run), data))
    part = _in_classes_of(card, opened, data, split)
    if count is not None:
        part = part.take(stratified(part.labels, min(count, len(part.labels)), SEED))
    augmentation = Augmentation("none", card.image_size, card.mean, card.std)
    resident = len(part.labels) * math.prod(part.pictures.shape) <= RESIDENT_BYTES
    return EvaluationImages(stored_split(part, resident=resident), augmentation)


def require_card(run: str | Path) -> WeightsCard:
    """Read the card stored with a run's weights: network, classes, image size, normalisation.

    Raises:
        RunError: the weights are missing or damaged, or have no card.
    """
    card = read_card(weights_file(Path(run)))
    if card is None:
        raise RunError(
            str(run),
            expected="weights that svdistill wrote",
            got="a file that names no classes and no images",
            remedy="give a run directory, or a .safetensors file of one",
        )
    return card


def _given(card: WeightsCard, data: ImageData, split: str) -> EvaluationImages:
    if data.class_names != card.class_names:
        raise ArgumentError(
            "data",
            expected=f"images of the network's {len(card.class_names)} classes, in its order",
            got=f"{data.num_classes} classes, or others",
            remedy="choose the classes that the network was trained on",
        )
    normalised = Augmentation("none", data.image_shape[-1], card.mean, card.std)
    images = data.train if split == "train" else data.test
    return EvaluationImages(images, NoAugmentation() if data.prepared else normalised)


def _config_of(run: Path) -> TrainConfig | None:
    """Read the configuration of a run directory, or of the directory of a weights file, if any."""
    path = RunDirectory(run if run.is_dir() else run.parent).config
    return read_config(path) if path.exists() else None


def _chosen(config: TrainConfig) -> DataChoices:
    """The columns and splits of the data that a configuration selects."""
    return DataChoices(**{name: getattr(config, name) or None for name in DataChoices._fields})


def _chosen_for(run: Path, data: str) -> DataChoices:
    """The columns and splits that a run selected, if it was trained on `data`; else automatic."""
    with contextlib.suppress(RunError):  # a damaged configuration does not matter for other data
        config = _config_of(run)
        return _chosen(config) if config is not None and config.data == data else AUTOMATIC
    return AUTOMATIC


def _open_own(run: Path, image_size: int) -> tuple[str, OpenedData]:
    """Open the data that a run was trained on."""
    config = _config_of(run)
    if config is None or config.data == OBJECT:
        raise ArgumentError(
            "data",
            expected="images, since no config.yaml beside the weights names any",
            got="nothing",
            remedy="give --data, or in Python data=",
        )
    data = config.data
    if data.startswith("hub:"):
        # The file may be untrusted, so nothing that it names is downloaded without consent.
        raise ArgumentError(
            "data",
            expected=f"consent to fetch {data}, which {run} was trained on, from the hub",
            got="nothing",
            remedy=f"give --data {shlex.quote(data)} to fetch it, or in Python data=",
        )
    try:
        return data, open_images(data, image_size, _chosen(config))
    except SVDistillError as error:
        raise DataError(
            str(run),
            expected=f"the images that it was trained on, {data}",
            got=str(error).partition(";")[0],
            remedy="give --data if they are elsewhere now",
        ) from error


def _in_classes_of(card: WeightsCard, opened: OpenedData, source: str, split: str) -> Subset:
    """Keep a split's images of a network's classes; number labels in the order of its logits."""
    names = opened.class_names
    missing = [name for name in card.class_names if name not in names]
    if missing:
        raise RunError(
            source,
            expected=f"the network's {len(card.class_names)} classes among the data's {len(names)}",
            got=f"none named {missing[0]!r}" + (" and others" if len(missing) > 1 else ""),
            remedy="give data with the classes that the network was trained on",
        )
    places = np.array([names.index(name) for name in card.class_names])
    order = np.argsort(places)
    part = keep_classes(opened.train if split == "train" else opened.test, places[order])
    if len(part.labels) == 0:
        raise RunError(
            source,
            expected=f"{split} images of the network's classes",
            got="none",
            remedy="give data with the classes that the network was trained on",
        )
    return part._replace(labels=order[part.labels])


def evaluate(
    path: str | Path,
    data: str | ImageData | None = None,
    *,
    network: nn.Module | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a trained network on the test split of a data set.

    Images are resized and normalised like the network's training images.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        data: see `load_test_images`.
        network: a network to fill with the weights, see `load_student`; needed if the run trained a
            Python object or the user's own `module:attr`.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        `Evaluation(accuracy, loss, images)`.

    Raises:
        SVDistillError: weights or data cannot be read, or the data's classes do not fit.
    """
    network = load_student(path, network)
    images = load_test_images(path, data)
    target = choose_device(device)
    moved = images._replace(split=images.split.to(target))
    return evaluate_network(network.to(target), moved, device=target)


def own_network(path: str | Path, name: str) -> nn.Module:
    """Build the network of a run from the user's own code.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        name: the network's name, such as `module:attr`; see `build_network`.
    """
    card = require_card(path)
    return build_network(name, len(card.class_names), image_size=card.image_size)
