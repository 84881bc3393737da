"""A network as a graph of operations that takes batches of any size and gives logits only."""

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

EXAMPLE_IMAGES: Final = 2  # of a single one, torch.export would take the batch size as a constant


class LogitsOnly(nn.Module):
    """A network whose output is its logits, whatever else it returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], giving logits [B, num_classes]."""
        return as_logits(self.network(images))


def trace_network(network: LogitsOnly, image_size: int) -> ExportedProgram:
    """Trace a network in eval mode, for float32 images [batch, 3, image_size, image_size].

    Args:
        network: what to trace.
        image_size: side of its images in pixels.

    Returns:
        The graph with its weights. It keeps no line of source code, whose path would tell of the
        machine.

    Raises:
        RunError: the network cannot be traced, or only for one batch size.
    """
    example = torch.zeros(EXAMPLE_IMAGES, 3, image_size, image_size)
    shapes = {"images": {0: Dim("batch")}}
    try:
        with quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    except SVDistillError:
        raise
    except Exception as error:  # torch.export raises whatever the network's code runs into
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
    """Keep off the terminal what the exporters say to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def in_short(error: Exception) -> str:
    """The kind of an error and the beginning of what it says.

    Example:
        >>> in_short(ValueError("no   such axis"))
        'ValueError: no such axis'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
