"""Follow a network's trunk: the modules that its feature maps pass through, one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import nn

from svdistill.taps.dry_run import ModuleOutput, is_weight_layer
from svdistill.taps.grids import grid


class Trunk:
    """The modules that ran, each below the one that holds it.

    Args:
        outputs: of every module, in the order in which they were done.
        image: height and width of the images.
    """

    def __init__(self, outputs: Sequence[ModuleOutput], image: tuple[int, int]) -> None:
        self.image = image
        self.children: dict[str, list[ModuleOutput]] = {"": []}
        for output in outputs:
            self.children[output.path] = []
        for output in outputs:
            holder = output.path.rpartition(".")[0]
            while holder not in self.children:  # lists of modules do not run
                holder = holder.rpartition(".")[0]
            self.children[holder].append(output)

    def positions(self, output: ModuleOutput) -> int:
        """Height times width of what a module put out; 0 if it cannot be tapped."""
        return 0 if output.shape is None else math.prod(grid(output.shape, self.image))

    def follow(self, path: str, size: int) -> Iterator[ModuleOutput]:
        """The modules of the trunk within one, each the outermost that hides no other stage.

        Args:
            path: of the module to look into; "" for the network.
            size: positions of what comes in. The trunk never grows again: a larger map is beside
                it, and one of a single position is pooled.
        """
        for output in self.children[path]:
            if self.positions(output) and not self._hides_a_stage(output, size):
                found = [output]
            elif _is_single_block(output):
                # A norm sees all that runs through its block; other parts may see a branch alone.
                found = [part for part in self._within(output.path) if _is_norm(part)]
            else:
                found = list(self.follow(output.path, size))
            for part in found:
                if 1 < self.positions(part) <= size and not _adds_nothing(part):
                    size = self.positions(part)
                    yield part

    def _hides_a_stage(self, output: ModuleOutput, size: int) -> bool:
        """Whether there is a stage within a module that neither goes in nor comes out.

        That is a size between, or a list of blocks of the size that goes in.
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
    """Whether a module holds two weight layers or more."""
    return sum(map(is_weight_layer, output.module.modules())) >= 2


def _is_single_block(output: ModuleOutput) -> bool:
    """Whether it is a block, and no list of blocks either."""
    lists = (nn.ModuleList, nn.Sequential)
    return is_block(output) and not any(
        isinstance(module, lists) for module in output.module.modules()
    )


def _is_numbered(output: ModuleOutput) -> bool:
    return output.path.rpartition(".")[2].isdigit()


def _is_norm(output: ModuleOutput) -> bool:
    return "norm" in type(output.module).__name__.lower()


def _adds_nothing(output: ModuleOutput) -> bool:
    """Whether it passes on what came in, or brings it to the size that a head wants."""
    return output.passes_on or isinstance(output.module, nn.AdaptiveAvgPool2d)
