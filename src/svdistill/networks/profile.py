"""What a network costs: parameters, FLOPs and the shapes of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from svdistill.common import ArgumentError, require_count
from svdistill.taps import FeatureTaps, eval_mode, module_path


@dataclass(frozen=True)
class Cost:
    """Parameters, and floating point operations of one forward pass, two per multiply-add."""

    parameters: int
    flops: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.parameters - other.parameters, self.flops - other.flops)


def stage_costs(network: nn.Module, image: Tensor, paths: Sequence[str]) -> tuple[Cost, ...]:
    """Divide the cost of a network between modules that run one after the other.

    Args:
        network: in evaluation mode, on any device including `meta`.
        image: one image [1, 3, H, W], on the device of the network.
        paths: of the modules in the order in which they run, as `FeatureTaps` takes them.

    Returns:
        For each path the cost of everything that runs after the module before it and until its own
        module ends; last, the cost of the rest.

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
            # Including its children's: a module may use their weights without calling them.
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
    return Cost(sum(parameter.numel() for parameter in parameters), counter.total)


@dataclass(frozen=True)
class NetworkProfile:
    """What a network costs on one image.

    Attributes:
        parameters: number of weights, shared ones counted once.
        flops: floating point operations of one forward pass in evaluation mode, two per
            multiply-add; as in the paper, only convolutions and matrix products count.
        taps: path and shape without the batch of every requested feature map.
    """

    parameters: int
    flops: int
    taps: tuple[tuple[str, tuple[int, ...]], ...] = ()


def profile_network(
    network: nn.Module,
    image_shape: Sequence[int] = (3, 32, 32),
    tap_paths: Sequence[str] = (),
) -> NetworkProfile:
    """Count parameters and FLOPs of a network on one image and record the shapes of its taps.

    The modes of its modules, its hooks and its batch statistics do not change. A network on torch's
    ``meta`` device is profiled without computing anything.

    Args:
        network: any module that takes images [1, C, H, W].
        image_shape: channels, height and width of the image, each at least 1.
        tap_paths: module paths, as `FeatureTaps` takes them.

    Returns:
        The profile, with taps in the order of `tap_paths`.

    Raises:
        ArgumentError: the shape is not three positive integers, or as in `FeatureTaps.run`.

    Example:
        >>> profile_network(nn.Conv2d(3, 8, kernel_size=3, bias=False), (3, 4, 4))
        NetworkProfile(parameters=216, flops=1728, taps=())
    """
    if len(image_shape) != 3:
        raise ArgumentError(
            "image_shape",
            expected="channels, height and width",
            got=tuple(image_shape),
            remedy="leave the batch size out; the profile is for one image",
        )
    for side in image_shape:
        require_count("image_shape", side)
    weight = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with eval_mode(network), torch.no_grad(), counting_flops() as counter:
        recording = FeatureTaps(network, tap_paths).run(image)
    return NetworkProfile(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=counter.total,
        taps=tuple(
            (path, tuple(feature.shape[1:]))
            for path, feature in zip(tap_paths, recording.features, strict=True)
        ),
    )


class FlopCounter(TorchDispatchMode):
    """Counts FLOPs with the formulas of torch.

    It replaces `torch.utils.flop_counter.FlopCounterMode`, which imports torch's compiler; that
    takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would wrap the method below by the compiler's `disable`

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it, or the operations that it is composed of."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                outputs = func.decompose(*args, **kwargs)
                if outputs is not NotImplemented:
                    return outputs
        outputs = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=outputs)
        return outputs


@contextmanager
def counting_flops() -> Iterator[FlopCounter]:
    """Count FLOPs, including attention.

    torch has no formula for some fused attention kernels, such as the CPU's, so none is used.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        yield counter
