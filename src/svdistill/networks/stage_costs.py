"""What a network costs from one of its modules to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdistill.networks.profile import FlopCounter, counting_flops
from svdistill.taps.layouts import module_path


@dataclass(frozen=True)
class Cost:
    """Parameters, and floating point operations of one forward pass, two per multiply-add."""

    parameters: int
    flops: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.parameters - other.parameters, self.flops - other.flops)


def stage_costs(network: nn.Module, image: Tensor, paths: Sequence[str]) -> tuple[Cost, ...]:
    """Divide the cost of a network by some of its modules.

    Args:
        network: in evaluation mode, on any device, `meta` too.
        image: one image [1, 3, H, W], where the network is.
        paths: of modules that run one after the other, as `FeatureTaps` takes them.

    Returns:
        A cost for each path: of all that has run when its module is done, and not when the one
        before was. And last that of the rest.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> stage_costs(network.eval(), torch.zeros(1, 3, 2, 2), ["1"])
        (Cost(parameters=16, flops=96), Cost(parameters=34, flops=64))
    """
    ran: set[nn.Parameter] = set()
    done: list[Cost] = []
    parts = {network.get_submodule(module_path(path)) for path in paths}
    with counting_flops() as counter, torch.no_grad():

        def note(module: nn.Module, _inputs: object, _output: object) -> None:
            # With those below: a module may use a child's weights without calling it.
            ran.update(module.parameters())
            if module in parts:
                done.append(_cost(ran, counter))

        handles = [module.register_forward_hook(note) for module in network.modules()]
        try:
            network(image)
        finally:
            for handle in handles:
                handle.remove()
        done.append(_cost(set(network.parameters()), counter))
    return tuple(after - before for before, after in zip([Cost(0, 0), *done], done, strict=False))


def _cost(parameters: set[nn.Parameter], counter: FlopCounter) -> Cost:
    count = sum(parameter.numel() for parameter in parameters)
    return Cost(count, counter.total)
