"""Count the parameters and FLOPs of a network and of its stages; compare with the paper's table.

`describe_network` returns what `svdistill info` prints; `profile_network` works for any module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from svdistill.common import ArgumentError, as_logits, require_choice, require_count
from svdistill.networks.paper import PaperNetwork
from svdistill.networks.registry import (
    SkipInitialisation,
    build_network,
    input_spec,
    is_code,
    network_names,
    on_meta_device,
    pretrained_classes,
)
from svdistill.taps import FeatureTaps, dry_run, eval_mode, find_stages, module_path


@dataclass(frozen=True)
class Cost:
    """Number of parameters, and FLOPs of one forward pass (two per multiply-add)."""

    parameters: int
    flops: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.parameters - other.parameters, self.flops - other.flops)


def stage_costs(network: nn.Module, image: Tensor, paths: Sequence[str]) -> tuple[Cost, ...]:
    """Divide the cost of a network in eval mode among modules that run one after the other.

    Returns:
        For each path, the cost of everything that runs from the end of the previous path's module
        to the end of its own module; as the last entry, the cost of whatever runs afterwards.
    """
    ran: set[nn.Parameter] = set()
    done: list[Cost] = []
    parts = {network.get_submodule(module_path(path)) for path in paths}
    with counting_flops() as counter, torch.no_grad():

        def note(module: nn.Module, _inputs: object, _output: object) -> None:
            # Children's parameters count too: a module may use them without calling the child.
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
    """The cost of a network on one image.

    Attributes:
        parameters: number of parameters; shared ones are counted once.
        flops: floating point operations of one forward pass in evaluation mode, two per
            multiply-add; as in the paper, only convolutions and matrix products are counted.
        taps: module path and shape (without the batch dimension) of each requested feature map.
    """

    parameters: int
    flops: int
    taps: tuple[tuple[str, tuple[int, ...]], ...] = ()


def profile_network(
    network: nn.Module,
    image_shape: Sequence[int] = (3, 32, 32),
    tap_paths: Sequence[str] = (),
) -> NetworkProfile:
    """Count parameters and FLOPs of a network on one image and record shapes of feature maps.

    The network is left as it was: training mode, hooks and batch statistics do not change. If it is
    on torch's ``meta`` device, it is profiled without any computation.

    Args:
        network: any module that takes images [1, C, H, W].
        image_shape: channels, height and width of the image, each at least 1.
        tap_paths: paths of the modules whose output shapes to record, as for `FeatureTaps`.

    Raises:
        ArgumentError: if the shape is not three positive integers, or as in `FeatureTaps.run`.

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
    """Counts FLOPs of torch operations, using torch's own formulas.

    It replaces `torch.utils.flop_counter.FlopCounterMode`, which imports torch's compiler, and so
    takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # if True, torch imports its compiler to wrap the method below

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count its FLOPs, or those of the operations it consists of."""
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
    """Count the FLOPs of everything that runs within the block, including attention.

    Fused attention kernels are switched off, since torch has no formula for some of them, such as
    the CPU's.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        yield counter


@dataclass(frozen=True)
class PublishedSize:
    """A network's row in the paper's table, which is for 100 classes and 32 x 32 images.

    Attributes:
        flops: FLOPs according to the table.
        parameters: number of parameters according to the table.
        deviation: how our counts for the network differ from the table's; empty if they agree.
    """

    flops: int
    parameters: int
    deviation: str = ""


_TABLE = {
    "vgg_teacher": PublishedSize(576_300_000, 10_900_000),
    "vgg_student": PublishedSize(
        121_300_000, 3_800_000, "121.2M FLOPs counted: the table says 0.1 % more"
    ),
    "vgg_stride_student": PublishedSize(
        15_600_000, 3_800_000, "33.6M FLOPs counted, 16.8M multiply-adds: the table has neither"
    ),
    "mobilenet_teacher": PublishedSize(
        98_400_000,
        2_300_000,
        "175.8M FLOPs counted: the table is nearer to the 87.9M multiply-adds; 2.21M parameters",
    ),
    "mobilenet_student": PublishedSize(
        37_800_000, 820_000, "73.1M FLOPs counted: the table is nearer to the 36.5M multiply-adds"
    ),
    "resnext_teacher": PublishedSize(
        547_300_000,
        660_000,
        "542.6M FLOPs and 0.65M parameters counted with the 4 branches that come nearest; "
        "the 8 branches of the drawing count to 1081.5M and 1.28M",
    ),
    "resnext_student": PublishedSize(
        247_600_000,
        340_000,
        "273.1M FLOPs counted with the 2 branches that give the table's parameters",
    ),
}


def published_size(name: str) -> PublishedSize:
    """Return the row of the paper's table for a network, one of `network_names`."""
    require_choice("name", name, _TABLE)
    return _TABLE[name]


TABLE_SETTING = (100, 1.0, 32)  # classes, width and image side of the paper's table

SMALL_SIDE = 64  # up to this side, a forward pass is cheaper than importing torch's compiler


@dataclass(frozen=True)
class StageRow:
    """One part of a network: path, output shape (without the batch), cost, whether it is a tap."""

    path: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    is_tap: bool


@dataclass(frozen=True)
class NetworkDescription:
    """The cost of a network as a whole and part by part, and its row in the paper's table.

    Attributes:
        name: name of the network, as for `build_network`.
        num_classes: number of logits.
        width: factor on the channels.
        image_size: side of the image in pixels.
        profile: cost of the whole network, and the shapes of its taps (the feature maps that
            distillation can compare).
        stages: the parts in the order in which they run; their costs add up to that in `profile`.
            For networks other than the paper's, the stages that can be tapped, then the rest.
        published: the row of the paper's table; None if the network, number of classes, width or
            image size is not that of the table.
    """

    name: str
    num_classes: int
    width: float
    image_size: int
    profile: NetworkProfile
    stages: tuple[StageRow, ...]
    published: PublishedSize | None


def describe_network(
    name: str,
    num_classes: int | None = None,
    width: float = 1.0,
    image_size: int | None = None,
) -> NetworkDescription:
    """Describe the network that `build_network` builds for a name, without weights if possible.

    By default the number of classes and the image size are those of the network's published
    weights, or 100 and 32 if it has none.
    """
    if num_classes is None:
        num_classes = pretrained_classes(name) or TABLE_SETTING[0]
    if image_size is None:
        spec = input_spec(name)
        image_size = TABLE_SETTING[2] if spec is None else spec.image_size
    require_count("image_size", image_size)
    network = _build(name, num_classes, width, image_size)
    if isinstance(network, PaperNetwork):
        parts, taps = tuple(dict(network.named_children())), network.tap_paths
    else:
        parts = taps = _stages(network, image_size)
    profile = profile_network(network, (3, image_size, image_size), parts)
    in_table = name in _TABLE and (num_classes, width, image_size) == TABLE_SETTING
    return NetworkDescription(
        name=name,
        num_classes=num_classes,
        width=width,
        image_size=image_size,
        profile=replace(profile, taps=tuple(tap for tap in profile.taps if tap[0] in taps)),
        stages=tuple(_rows(network, profile, taps, image_size)),
        published=published_size(name) if in_table else None,
    )


def _build(name: str, num_classes: int, width: float, image_size: int) -> nn.Module:
    """Build a network in evaluation mode, on torch's meta device if possible."""

    def build() -> nn.Module:
        return build_network(name, num_classes, width, image_size=image_size).eval()

    if name in network_names() and width <= 1 and image_size <= SMALL_SIDE:
        # A forward pass on the meta device makes torch import its compiler, which takes seconds.
        with SkipInitialisation():
            return build()
    if not is_code(name):
        try:
            with on_meta_device():
                return build()
        except NotImplementedError:  # some networks compute with tensors while they are built
            pass
    with torch.random.fork_rng(devices=[]):
        return build()


def _stages(network: nn.Module, image_size: int) -> tuple[str, ...]:
    """Return the paths of a network's stages, whose outputs can be tapped."""
    sides = (image_size, image_size)
    found = find_stages(dry_run("name", network, torch.zeros(2, 3, *sides)), sides)
    return tuple(stage.stage.path for stage in found.stages)


def _rows(
    network: nn.Module, profile: NetworkProfile, taps: tuple[str, ...], image_size: int
) -> list[StageRow]:
    """Return a row for each part in the profile, and one for what runs after the last part."""
    weight = next(network.parameters(), torch.empty(0))
    shape = (1, 3, image_size, image_size)
    image = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    *costs, rest = stage_costs(network, image, [path for path, _ in profile.taps])
    rows = [
        StageRow(path, output, cost.parameters, cost.flops, path in taps)
        for (path, output), cost in zip(profile.taps, costs, strict=True)
    ]
    if rest != Cost(0, 0):
        with torch.no_grad():
            logits = as_logits(network(image))
        rows.append(StageRow("(rest)", tuple(logits.shape[1:]), rest.parameters, rest.flops, False))
    return rows
