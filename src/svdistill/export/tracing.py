"""Trace a network as a graph of operations that takes batches of any size and gives its logits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from svdistill.common import RunError, SVDistillError, as_logits

EXAMPLE_IMAGES: Final = 2  # torch.export would take the batch size of a single one as a constant


class ExportedNetwork(nn.Module):
    """A network from images to float32 logits; other outputs are dropped.

    Args:
        network: any classifier of images.
        normalise: mean and standard deviation of each channel: the images are uint8, and scaled to
            0 to 1 and normalised here. None takes normalised float32 images.
        precision: the dtype in which the network computes; its weights are converted in place.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network.to(precision)
        self.input_dtype = torch.float32 if normalise is None else torch.uint8
        self.precision = precision
        if normalise is not None:
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalise)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], giving logits [B, num_classes]."""
        if self.input_dtype == torch.uint8:
            images = (images.float() / 255 - self.mean) / self.std
        if self.precision == torch.float32:
            return as_logits(self.network(images))
        return as_logits(self.network(images.to(self.precision))).float()


def trace_network(network: ExportedNetwork, image_size: int) -> ExportedProgram:
    """Trace a network in eval mode, for images [batch, 3, image_size, image_size].

    Args:
        network: the network.
        image_size: side of its images in pixels.

    Returns:
        The graph with its weights, without the source lines of its nodes, which contain paths.

    Raises:
        RunError: the network cannot be traced, or only for one batch size.
    """
    shape = (EXAMPLE_IMAGES, 3, image_size, image_size)
    example = torch.zeros(shape, dtype=network.input_dtype)
    shapes = {"images": {0: Dim("batch")}}
    try:
        with quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    except SVDistillError:
        raise
    except Exception as error:  # torch.export raises any exception of the network's code
        raise RunError(
            type(network.network).__name__,
            expected="a network that torch.export can trace, for batches of any size",
            got=in_short(error),
            remedy="let its forward not depend on the images' values or number",
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and warnings of exporters, which address their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def in_short(error: Exception) -> str:
    """The type of an exception and the beginning of its message.

    Example:
        >>> in_short(ValueError("no   such axis"))
        'ValueError: no such axis'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
