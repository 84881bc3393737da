"""Find the stages of a network: of each size of its feature maps, the module to tap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mode

from svdistill.taps.dry_run import ModuleOutput
from svdistill.taps.grids import grid, is_channels_last
from svdistill.taps.layouts import CHANNELS_LAST
from svdistill.taps.trunk import Trunk, is_block

STEM = 0.1  # the part of a network's depth in which sizes without a block are its stem's


@dataclass(frozen=True)
class Stage:
    """A module that can be tapped.

    Attributes:
        path: as `FeatureTaps` takes it.
        shape: of its output without the batch: (D, H, W), (T, D) or (D,).
    """

    path: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """D, what an adapter projects."""
        return self.shape[1] if len(self.shape) == 2 else self.shape[0]

    @property
    def positions(self) -> int:
        """H x W of a map, the number of tokens with their prefix, or 1."""
        return math.prod(self.shape) // self.channels


@dataclass(frozen=True)
class FoundStage:
    """A stage of a network, with what it is paired by.

    Attributes:
        stage: what to tap.
        grid: height and width; of tokens, those of the image without their prefix.
        depth: part of the network's weight layers that has run, from 0 to 1 at the last stage.
    """

    stage: Stage
    grid: tuple[int, int]
    depth: float


@dataclass(frozen=True)
class FoundStages:
    """The stages of a network from front to back; of an isotropic one, all its blocks."""

    stages: tuple[FoundStage, ...]
    isotropic: bool


def find_stages(outputs: Sequence[ModuleOutput], image: tuple[int, int]) -> FoundStages:
    """Choose one module per size of the feature maps, or the blocks of an isotropic network.

    Sizes shrink from front to back. Of each, the last block is taken (a module with two weight
    layers or more), or the last module where there is no block. Maps of one position are left out,
    and the sizes of a mere stem: those without a block in the first tenth of the network.

    Args:
        outputs: of every module, from `dry_run`.
        image: height and width of the images.

    Returns:
        The stages; none for a network of vectors.
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
    """Of the modules of the only size those that are alike; blocks may all lie within one."""
    blocks = list(filter(is_block, size))
    while len(blocks) == 1:
        inner = list(trunk.follow(blocks[0].path, trunk.positions(blocks[0])))
        size = inner or size
        blocks = list(filter(is_block, inner))
    shape = mode(output.shape for output in blocks or size)
    return [output for output in blocks or size if output.shape == shape]


def _found(output: ModuleOutput, image: tuple[int, int], layers: int) -> FoundStage:
    path, shape = output.path, output.shape
    assert shape is not None  # what cannot be tapped is not in the trunk
    found = grid(shape, image)
    if is_channels_last(shape, image):
        path, shape = path + CHANNELS_LAST, (shape[2], *shape[:2])
    return FoundStage(Stage(path, shape), found, output.layers_run / layers)
