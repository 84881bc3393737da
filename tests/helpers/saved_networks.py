"""A small network with a card, as runs save it."""

import torch

from svdistill.networks import build_network
from svdistill.runs.weights import WeightsCard

CARD = WeightsCard(
    "mobilenet_student", 0.05, ("zero", "ä", '"'), (0.1, 1 / 3, 0.3), (0.2, 0.3, 0.4), 16
)


def network(classes=3, width=0.05):
    torch.manual_seed(0)
    built = build_network("mobilenet_student", classes, width)
    built(torch.rand(8, 3, 16, 16))  # batch statistics that are not the initial ones
    return built.eval()


def logits(model):
    return model(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
