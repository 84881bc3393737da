"""Run a network once and describe the output of each of its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError
from svdistill.taps.recording import watching, write_count

MAX_IMAGES = 2  # enough to tell the batch from the other dimensions


@dataclass(frozen=True)
class ModuleOutput:
    """The output of a module in the dry run.

    Attributes:
        path: of the module.
        module: the module.
        shape: of the output without the batch; None where it cannot be tapped: the module ran more
            than once, its output is not one tensor of features, or was overwritten in place.
        layers_run: number of layers with a weight matrix that had run when the module ended.
        passes_on: whether the output is that of another module, as of dropout in eval mode.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layers_run: int
    passes_on: bool


def dry_run(argument: str, network: nn.Module, images: Tensor) -> tuple[ModuleOutput, ...]:
    """Run a network on one or two images in eval mode, without changing its state.

    The network may be on any device, `meta` too; `argument` is its name in an error message.

    Returns:
        The outputs of all modules but the network itself, in the order in which they ended.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        is_tensor = isinstance(images, Tensor)
        raise ArgumentError(
            "example",
            expected="images [B, 3, H, W], as both networks take them",
            got=f"shape {list(images.shape)}" if is_tensor else type(images).__name__,
            remedy="give one batch of the data loader",
        )
    watch = _Watch(network, min(len(images), MAX_IMAGES))
    with trial_run(argument, network, images), watching(network, watch.modules, watch.see):
        network(first_images(network, images))
    return watch.outputs()


def first_images(network: nn.Module, images: Tensor) -> Tensor:
    """The first one or two images, on the device of the network."""
    weight = next(network.parameters(), images)
    return images[:MAX_IMAGES].to(weight.device)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and restore the modes afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:  # a network's own `eval` may do more, such as merging weights
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def trial_run(argument: str, network: nn.Module, images: Tensor) -> Iterator[None]:
    """Run a network in eval mode without gradients, and restore its modes and the generators."""
    gpus = {tensor.device for tensor in network.parameters() if tensor.is_cuda}
    try:
        with (
            eval_mode(network),
            torch.random.fork_rng(gpus),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(
            argument,
            expected=f"a network that takes images {list(images[:MAX_IMAGES].shape)}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            remedy="give an example that both networks take, images alone",
        ) from error


class _Watch:
    """Keeps the outputs of the modules until the end, when it is known which were overwritten."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        self.batch = batch
        self.modules = {path: module for path, module in network.named_modules() if path}
        self.layers_run = 0
        self.seen: dict[str, list[tuple[Tensor | None, int, int]]] = {}

    def see(self, path: str, output: object) -> None:
        self.layers_run += is_weight_layer(self.modules[path])
        tensor = output if isinstance(output, Tensor) else None
        writes = 0 if tensor is None else write_count(tensor)
        self.seen.setdefault(path, []).append((tensor, writes, self.layers_run))

    def outputs(self) -> tuple[ModuleOutput, ...]:
        found: list[ModuleOutput] = []
        sources: dict[tuple[int, int], str] = {}
        for path, runs in self.seen.items():
            tensor, writes, layers_run = runs[-1]
            source = sources.setdefault((id(tensor), writes), path)
            passes_on = source != path and not source.startswith(f"{path}.")
            shape = self._shape(tensor, writes) if len(runs) == 1 else None
            found.append(ModuleOutput(path, self.modules[path], shape, layers_run, passes_on))
        return tuple(found)

    def _shape(self, tensor: Tensor | None, writes: int) -> tuple[int, ...] | None:
        """The shape without the batch of a tensor of features that was not overwritten."""
        if tensor is None or write_count(tensor) != writes or not tensor.is_floating_point():
            return None
        is_per_image = 2 <= tensor.ndim <= 4 and len(tensor) == self.batch
        return tuple(tensor.shape[1:]) if is_per_image else None


def is_weight_layer(module: nn.Module) -> bool:
    """Whether a module itself holds a weight matrix, as convolutions and linear layers do."""
    return any(
        name.endswith("weight") and weight.ndim >= 2
        for name, weight in module.named_parameters(recurse=False)
    )
