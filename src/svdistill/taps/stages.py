"""Finds the stages of any network, its parts with feature maps of one size, in one dry run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from statistics import mode

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, in_short
from svdistill.taps.recording import CHANNELS_LAST, watching, write_count

MAX_IMAGES = 2  # enough to tell the batch from the other dimensions
MAX_PREFIX_TOKENS = 16  # class, distillation and register tokens before those of the image
MAX_MISFIT = 0.5  # accepts small maps of oblong images, but no attention maps (heads by tokens)
STEM = 0.1  # fraction of a network's depth in which map sizes without a block belong to its stem


@dataclass(frozen=True)
class ModuleOutput:
    """The output of a module in the dry run.

    Attributes:
        path: path of the module in the network.
        module: the module.
        shape: shape of the output without the batch; None if the module cannot be tapped, because
            it ran more than once, or its output is not one floating-point tensor with a row for
            each image, or was overwritten in place.
        layers_run: number of layers with a weight matrix that had run when the module ended.
        passes_on: whether the module returned another module's output unchanged, as dropout does
            in eval mode.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layers_run: int
    passes_on: bool


def dry_run(argument: str, network: nn.Module, images: Tensor) -> tuple[ModuleOutput, ...]:
    """Run a network on one or two images in eval mode, without changing its state.

    The network may be on any device, even `meta`; `argument` names the network in error messages.

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
    """The first `MAX_IMAGES` images, on the device of the network."""
    weight = next(network.parameters(), images)
    return images[:MAX_IMAGES].to(weight.device)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode within the block, and restore the modes afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:  # a network's own `eval` may do more, such as merging weights
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def trial_run(
    argument: str,
    network: nn.Module,
    images: Tensor,
    remedy: str = "give an example that both networks take, images alone",
) -> Iterator[None]:
    """Within the block, eval mode and no gradients; then restore modes and random generators.

    Any error of the network in the block is raised as an `ArgumentError` about `argument`.
    """
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
            got=in_short(error),
            remedy=remedy,
        ) from error


class _Watch:
    """Keeps the modules' outputs to the end of the run, then finds which were overwritten."""

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
        """The output's shape without the batch; None if it was overwritten or is no features."""
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


def map_size(shape: tuple[int, ...], image: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map, found by comparing its sides with those of the image.

    The shape is without the batch: (D, H, W), (H, W, D), (T, D) or (D,). For T tokens the result is
    the size of their grid without prefix tokens. The result is (0, 0) for a vector, and for an
    output whose proportions differ from the image's.
    """
    if len(shape) == 2:
        return _token_grid(shape[0], image)
    if len(shape) != 3 or min(_misfit(shape[1:], image), _misfit(shape[:2], image)) > MAX_MISFIT:
        return 0, 0
    a, b, c = shape
    return (a, b) if is_channels_last(shape, image) else (b, c)


def is_channels_last(shape: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether (H, W, D) fits the proportions of the image better than (D, H, W).

    If D = H = W, the channels are taken to come first. For images that are not square the result
    may be wrong where D is close to a side of the map.
    """
    return len(shape) == 3 and _misfit(shape[:2], image) < _misfit(shape[1:], image)


def _token_grid(tokens: int, image: tuple[int, int]) -> tuple[int, int]:
    """The largest grid with the image's proportions; (0, 0) if it leaves over too many tokens."""
    height = int(math.sqrt(tokens * image[0] / image[1]) + 1e-6)
    width = int(math.sqrt(tokens * image[1] / image[0]) + 1e-6)
    return (height, width) if tokens - height * width <= MAX_PREFIX_TOKENS else (0, 0)


def _misfit(sides: tuple[int, ...], image: tuple[int, int]) -> float:
    """Deviation of the ratio of two sides from that of the image, from 0 (equal) to 1."""
    crossed = sides[0] * image[1], sides[1] * image[0]
    return 1 - min(crossed) / max(crossed)


class Trunk:
    """The modules that ran, as a tree, to find those on the main path through the network."""

    def __init__(self, outputs: Sequence[ModuleOutput], image: tuple[int, int]) -> None:
        self.image = image
        self.children: dict[str, list[ModuleOutput]] = {"": []}
        for output in outputs:
            self.children[output.path] = []
        for output in outputs:
            holder = output.path.rpartition(".")[0]
            while holder not in self.children:  # a `ModuleList` does not run itself
                holder = holder.rpartition(".")[0]
            self.children[holder].append(output)

    def positions(self, output: ModuleOutput) -> int:
        """Height times width of a module's output; 0 if the module cannot be tapped."""
        return 0 if output.shape is None else math.prod(map_size(output.shape, self.image))

    def follow(self, path: str, size: int) -> Iterator[ModuleOutput]:
        """Yield the outermost submodules on the trunk of a module that contain no further stage.

        The trunk is the main path of the data. `size` is the number of positions (height times
        width) of the module's input. Sizes along the trunk never grow: a larger map belongs to a
        side branch. Maps of a single position, which have been pooled, are left out.
        """
        for output in self.children[path]:
            if self.positions(output) and not self._hides_a_stage(output, size):
                found = [output]
            elif _is_single_block(output):
                # All data in a block passes its norms; other submodules may be in one branch only.
                found = [part for part in self._within(output.path) if _is_norm(part)]
            else:
                found = list(self.follow(output.path, size))
            for part in found:
                if 1 < self.positions(part) <= size and not _adds_nothing(part):
                    size = self.positions(part)
                    yield part

    def _hides_a_stage(self, output: ModuleOutput, size: int) -> bool:
        """Whether a module contains a stage other than that of its input and that of its output.

        Such a stage has a size between the two, or is a numbered block of the input's size.
        """
        smallest = max(1, self.positions(output))
        return any(
            smallest < self.positions(part) < size
            or (smallest < self.positions(part) == size and _is_numbered(part) and is_block(part))
            for part in self._within(output.path)
        )

    def _within(self, path: str) -> Iterator[ModuleOutput]:
        for output in self.children[path]:
            yield from self._within(output.path)
            yield output


def is_block(output: ModuleOutput) -> bool:
    """Whether a module contains two weight layers or more."""
    return sum(map(is_weight_layer, output.module.modules())) >= 2


def _is_single_block(output: ModuleOutput) -> bool:
    """Whether a module is a block and contains no list of blocks."""
    lists = (nn.ModuleList, nn.Sequential)
    return is_block(output) and not any(
        isinstance(module, lists) for module in output.module.modules()
    )


def _is_numbered(output: ModuleOutput) -> bool:
    return output.path.rpartition(".")[2].isdigit()


def _is_norm(output: ModuleOutput) -> bool:
    return "norm" in type(output.module).__name__.lower()


def _adds_nothing(output: ModuleOutput) -> bool:
    """Whether a module returns its input unchanged, or pools it to a fixed size for a head."""
    return output.passes_on or isinstance(output.module, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Stage:
    """A module that can be tapped.

    Attributes:
        path: path of the module, as `FeatureTaps` takes it.
        shape: shape of the module's output without the batch: (D, H, W), (T, D) or (D,).
    """

    path: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """The number of channels D, the dimension that an adapter projects."""
        return self.shape[1] if len(self.shape) == 2 else self.shape[0]

    @property
    def positions(self) -> int:
        """H x W for a map, the number of tokens including prefix tokens, 1 for a vector."""
        return math.prod(self.shape) // self.channels


@dataclass(frozen=True)
class FoundStage:
    """A stage of a network with the map size and depth by which stages are paired.

    Attributes:
        stage: the module to tap.
        map_size: height and width of its map; for tokens, of their grid without prefix tokens.
        depth: fraction of the network's layers with weights that run up to this stage; 1 at the
            last stage.
    """

    stage: Stage
    map_size: tuple[int, int]
    depth: float


@dataclass(frozen=True)
class FoundStages:
    """The stages of a network from input to output.

    Attributes:
        stages: one stage per map size; in an isotropic network, every block.
        isotropic: whether all of the network's blocks have maps of one size, as in a ViT.
    """

    stages: tuple[FoundStage, ...]
    isotropic: bool


def find_stages(outputs: Sequence[ModuleOutput], image: tuple[int, int]) -> FoundStages:
    """Choose one module per size of the feature maps, or the blocks of an isotropic network.

    Map sizes shrink from input to output. For each size, the last block (a module with two or more
    layers with weights) is taken, or the last module if there is no block. Maps of one position are
    left out, and so is the stem: sizes without a block in the first tenth of the network. A network
    without feature maps has no stages.
    """
    trunk = Trunk(outputs, image)
    modules = trunk.follow("", image[0] * image[1])
    sizes = [list(size) for _, size in groupby(modules, key=trunk.positions)]
    chosen = [(list(filter(is_block, size)) or size)[-1] for size in sizes]
    if any(map(is_block, chosen)):
        stem = STEM * chosen[-1].layers_run
        chosen = [output for output in chosen if is_block(output) or output.layers_run > stem]
    isotropic = len(chosen) == 1
    if isotropic:
        chosen = _repeated(trunk, next(size for size in sizes if chosen[0] in size))
    layers = max([1, *(output.layers_run for output in chosen)])
    return FoundStages(tuple(_found(output, image, layers) for output in chosen), isotropic)


def _repeated(trunk: Trunk, size: list[ModuleOutput]) -> list[ModuleOutput]:
    """The blocks of an isotropic network: those with the most frequent output shape.

    If a single module contains all blocks, its submodules are searched instead.
    """
    blocks = list(filter(is_block, size))
    while len(blocks) == 1:
        inner = list(trunk.follow(blocks[0].path, trunk.positions(blocks[0])))
        size = inner or size
        blocks = list(filter(is_block, inner))
    shape = mode(output.shape for output in blocks or size)
    return [output for output in blocks or size if output.shape == shape]


def _found(output: ModuleOutput, image: tuple[int, int], layers: int) -> FoundStage:
    path, shape = output.path, output.shape
    assert shape is not None  # the trunk holds only modules that can be tapped
    found = map_size(shape, image)
    if is_channels_last(shape, image):
        path, shape = path + CHANNELS_LAST, (shape[2], *shape[:2])
    return FoundStage(Stage(path, shape), found, output.layers_run / layers)
