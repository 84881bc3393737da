"""What the seed's networks share: named stages in a row, four taps, He initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWING: Final = (
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
)


class SeedNetwork(nn.Module):
    """A classifier whose named parts run one after the other.

    The parts are direct children, so that a tap such as ``"stage2"`` is a readable path and the
    output of a whole stage. No activation works in place: what a tap recorded stays as it was.

    Args:
        parts: the parts in the order in which they run, by name; the last one gives the logits.
        tap_paths: names of the parts whose outputs distillation compares, front to back.

    Example:
        >>> import torch
        >>> from svdistill.networks import build_network
        >>> network = build_network("vgg_student", num_classes=10, width=0.25)
        >>> network.tap_paths
        ('stage1', 'stage2', 'stage3', 'stage4')
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, parts: dict[str, nn.Module], tap_paths: tuple[str, ...]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.tap_paths = tap_paths
        self.apply(_he_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], giving logits [B, num_classes]."""
        features = images
        for part in self.children():
            features = part(features)
        return features


def _he_initialise(module: nn.Module) -> None:
    """Draw weights from a normal distribution of variance 2 / fan-in and zero the biases."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def scale_channels(channels: int, width: float) -> int:
    """Multiply a channel count by the width, to the nearest multiple of four and at least four.

    Every count in the seed is a multiple of four, so width 1 leaves all of them as they are.

    Example:
        >>> scale_channels(64, 0.5), scale_channels(64, 1.0), scale_channels(64, 0.01)
        (32, 64, 4)
    """
    return max(4, 4 * round(channels * width / 4))


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks on torch's ``meta`` device, whose weights have a shape and no values.

    Example:
        >>> with without_memory():
        ...     layer = nn.Linear(2, 3)
        >>> layer.weight.device.type
        'meta'
    """
    with torch.device("meta"), Undrawn():
        yield


class Undrawn(TorchFunctionMode):
    """Builds networks whose weights are not drawn: they hold whatever is in memory.

    On the ``meta`` device torch would import its compiler to draw none, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Leave a tensor as it is where values would be drawn."""
        kwargs = kwargs or {}
        if func in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
