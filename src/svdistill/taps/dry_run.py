"""Run a network once, and look at what every one of its modules puts out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError
from svdistill.taps.recording import watching, write_count

MOST_IMAGES = 2  # enough to tell the batch from the other dimensions


@dataclass(frozen=True)
class ModuleOutput:
    """What a module put out in the dry run.

    Attributes:
        path: the module's.
        module: itself.
        shape: of the output without the batch; None where it cannot be tapped: the module ran more
            than once, gave no single tensor of images, or a later one wrote over it.
        layers_run: how many layers with a weight matrix had run when it was done.
        passes_on: whether it is what another module had put out, as behind a dropout at rest.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layers_run: int
    passes_on: bool


def dry_run(argument: str, network: nn.Module, images: Tensor) -> tuple[ModuleOutput, ...]:
    """Run a network on one or two images, in eval mode, and leave it as it was.

    Args:
        argument: what to call the network in an error.
        network: any `nn.Module` that takes images alone, on any device, `meta` too.
        images: [B, 3, H, W]; moved to where the network is.

    Returns:
        What every module but the network itself put out, in the order in which they were done.

    Raises:
        ArgumentError: the network fails on the images.
    """
    require_images(images)
    watch = _Watch(network, min(len(images), MOST_IMAGES))
    with evaluation_mode(argument, network, images), watching(network, watch.modules, watch.see):
        network(first_images(network, images))
    return watch.outputs()


def require_images(images: object) -> None:
    """Raise `ArgumentError` unless these are images [B, 3, H, W], at least one."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        raise ArgumentError(
            "example",
            expected="images [B, 3, H, W], as both networks take them",
            got=f"shape {list(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__,
            remedy="one batch of the data loader's does",
        )


def first_images(network: nn.Module, images: Tensor) -> Tensor:
    """The first images, where the network is."""
    weight = next(network.parameters(), images)
    return images[:MOST_IMAGES].to(weight.device)


@contextmanager
def evaluation_mode(argument: str, network: nn.Module, images: Tensor) -> Iterator[None]:
    """Have a network in eval mode and without gradients; restore its modes and the generators.

    Raises:
        ArgumentError: an exception in the network.
    """
    modes = [(module, module.training) for module in network.modules()]
    gpus = {tensor.device for tensor in network.parameters() if tensor.is_cuda}
    try:
        for module, _ in modes:  # `eval` may do more than this, such as merging weights
            module.training = False
        with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.no_grad():
            yield
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(
            argument,
            expected=f"a network that takes images {list(images[:MOST_IMAGES].shape)}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            remedy="give an example that both networks take, images alone",
        ) from error
    finally:
        for module, training in modes:
            module.training = training


class _Watch:
    """Sees what the modules put out, and keeps it to the end: only then is known what lasts."""

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
            lasts = len(runs) == 1 and tensor is not None and write_count(tensor) == writes
            shape = self._shape(tensor) if lasts else None
            source = sources.setdefault((id(tensor), writes), path)
            passes_on = source != path and not source.startswith(f"{path}.")
            found.append(ModuleOutput(path, self.modules[path], shape, layers_run, passes_on))
        return tuple(found)

    def _shape(self, tensor: Tensor | None) -> tuple[int, ...] | None:
        """Without the batch; None for what is no feature of each image."""
        if (
            tensor is None
            or not 2 <= tensor.ndim <= 4
            or len(tensor) != self.batch
            or not tensor.is_floating_point()
        ):
            return None
        return tuple(tensor.shape[1:])


def is_weight_layer(module: nn.Module) -> bool:
    """Whether a module has a weight matrix of its own: a convolution, a linear layer."""
    return any(
        name.endswith("weight") and weight.ndim >= 2
        for name, weight in module.named_parameters(recurse=False)
    )
