"""Accuracy of a trained network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from svdistill.data import ImageData
from svdistill.networks import build_network
from svdistill.training.assembly import choose_device
from svdistill.training.evaluation_images import load_test_images, require_card
from svdistill.training.metrics import Evaluation, evaluate_network
from svdistill.training.weights import load_student


def evaluate(
    path: str | Path,
    data: str | ImageData | None = None,
    *,
    network: nn.Module | None = None,
    device: str = "auto",
) -> Evaluation:
    """Accuracy of a trained network on the test split of a data set.

    Images are resized and normalised as the network's own training images were.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        data: where images come from, as in `load_images`, or images; None for the data that the run
            was trained on. Of data with more classes those are taken that the network knows.
        network: see `load_student`; for runs that were given a Python object, or `module:attr`.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        `Evaluation(accuracy, loss, images)`.

    Raises:
        SVDistillError: bad weights or data, or classes that differ from those trained on.
    """
    network = load_student(path, network)
    images = load_test_images(path, data)
    target = choose_device(device)
    return evaluate_network(
        network.to(target), images.split.to(target), images.augmentation, device=target
    )


def own_network(path: str | Path, name: str) -> nn.Module:
    """Build a network for the weights of a run, which only its user may name.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        name: as for `build_network`.
    """
    card = require_card(path)
    return build_network(name, len(card.class_names), image_size=card.image_size)
