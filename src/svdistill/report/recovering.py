"""How many classes a run's network tells apart, and the size of its images."""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import nn

from svdistill.networks import build_seed_network, profile_network
from svdistill.networks.base import without_memory
from svdistill.report.runs import Run
from svdistill.training.weights import read_card

LARGEST_SIDE: Final = 512


class Input(NamedTuple):
    """Classes, and the side of the images in pixels."""

    num_classes: int
    image_size: int


def input_of(run: Run) -> Input:
    """What a run's summary says, or else its weights, or else its counts.

    Raises:
        RunError: damaged weights.
    """
    summary = run.summary
    if summary.num_classes is not None and summary.image_size is not None:
        return Input(summary.num_classes, summary.image_size)
    card = None if run.weights is None else read_card(run.weights)
    return _recovered(run) if card is None else Input(len(card.class_names), card.image_size)


def _recovered(run: Run) -> Input:
    """Those of a run of an early version, which kept neither; all its networks are the seed's.

    But it has counted parameters, which grow evenly with the classes, and FLOPs, which grow with
    the side.
    """
    name, width = run.summary.network, run.summary.width

    def build(num_classes: int) -> nn.Module:
        with without_memory():
            return build_seed_network(name, num_classes, width)

    one, two = (profile_network(build(classes)).parameters for classes in (1, 2))
    classes = max(1, 1 + (run.summary.parameters - one) // (two - one))
    return Input(classes, _side(build(classes), run.summary.flops))


def _side(network: nn.Module, flops: int) -> int:
    """The largest side of an image for which a network takes no more FLOPs, by bisection."""
    low, high = 1, LARGEST_SIDE
    while low < high:
        middle = (low + high + 1) // 2
        fits = profile_network(network, (3, middle, middle)).flops <= flops
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
