"""Two small networks that learn digits in seconds, and one test image in both."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import svdistill as sd

DIGIT = 3  # which test image is looked at


class Looked(NamedTuple):
    """An image [H, W] and the maps of its two stages in both networks, [1, D, H, W] each."""

    image: Tensor
    teacher: tuple[Tensor, ...]
    student: tuple[Tensor, ...]


def look() -> Looked:
    """Train both networks on digits, each for itself, and look at one test image."""
    torch.manual_seed(0)
    data = sd.load_images("digits")
    networks = network(depth=3), network(depth=1)
    for one in networks:
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
        for epoch in range(3):
            for images, labels, *_ in data.train.batches(64, device="cpu", order_seed=epoch):
                F.cross_entropy(one(images / 255), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    images, *_ = next(iter(data.test.batches(DIGIT + 1, device="cpu", order_seed=None)))
    picture = images[DIGIT:] / 255
    with torch.no_grad():
        teacher, student = (
            sd.FeatureTaps(one.eval(), ["0", "1"]).run(picture).features for one in networks
        )
    return Looked(picture[0, 0], tuple(teacher), tuple(student))


def network(depth: int) -> nn.Sequential:
    """Two stages of 16 and 32 channels, as in examples/own_loop.py."""

    def stage(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in [inputs] + [outputs] * (depth - 1):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(2))

    return nn.Sequential(stage(3, 16), stage(16, 32), nn.Flatten(), nn.Linear(32 * 16, 10))
