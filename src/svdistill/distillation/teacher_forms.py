"""Rewrites a teacher with `torch.fx` to run faster, and handles exported and scripted teachers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from svdistill.common import ArgumentError
from svdistill.distillation.teacher_changes import can_watch

# Names of the argument by which operators know the training mode; an export fixes its value.
TRAINING_FLAGS: Final = ("training", "train", "is_training")


def require_eval_export(network: nn.Module) -> None:
    """Raise `ArgumentError` if a part of a network was exported in training mode.

    The mode of an exported program cannot be changed.
    """
    for path, module in network.named_modules():
        if not _is_exported(module):
            continue
        for node in module.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if schema is None:
                continue
            names = [argument.name for argument in schema.arguments]
            given = dict(zip(names, node.args, strict=False)) | node.kwargs
            if any(given.get(flag) is True for flag in TRAINING_FLAGS):
                raise ArgumentError(
                    "teacher",
                    expected="a program that was exported in eval mode",
                    got=f"{node.target} in training mode{f' in {path!r}' if path else ''}",
                    remedy="export it again after .eval()",
                )


def set_eval(network: nn.Module) -> None:
    """Put a network in eval mode; of exported programs, only `training` is set to False."""
    try:
        network.eval()
    except (NotImplementedError, AttributeError):  # exported programs; frozen TorchScript
        for module in network.modules():
            if getattr(module, "training", False):
                module.training = False


@contextmanager
def naming_exports(network: nn.Module) -> Iterator[None]:
    """Within the block, raise `ArgumentError` if an exported program rejects its inputs."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if not any(map(_is_exported, network.modules())):
            raise
        raise ArgumentError(
            "teacher",
            expected="inputs like those that it was exported for",
            got=" ".join(str(error).split())[:200],
            remedy="export it with dynamic_shapes, or leave the last, smaller batch out "
            "(drop_last=True)",
        ) from error


def _is_exported(module: nn.Module) -> bool:
    return isinstance(module, fx.GraphModule) and "range_constraints" in vars(module)


BATCH_NORM_OF = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


class Traced(NamedTuple):
    """The rewritten model, and the tensors of the original of which it holds changed copies."""

    model: fx.GraphModule
    copied: tuple[Tensor, ...]


def trace(model: nn.Module, paths: Sequence[str], *, keep_output: bool) -> Traced:
    """Trace a model in eval mode into one that does the same work in fewer operations.

    On a CPU the new model holds folded and re-ordered copies of some weights and shares all others.
    On other devices it shares all weights: detecting that copied weights are out of date would take
    a comparison in every step, which synchronises, and folding them anew in every step would take
    six kernels for each kernel that it saves.

    Returns:
        A model that returns `(output, features)`, and the original's tensors that were copied.
        Without `keep_output`, output is None and the operations after the last tap are removed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        >>> traced, copied = trace(model.eval(), ["1"], keep_output=False)
        >>> output, features = traced(torch.rand(2, 3, 6, 6))
        >>> output, features[0].shape, len(list(traced.children())), copied[0] is model[0].weight
        (None, torch.Size([2, 8, 4, 4]), 1, True)
    """
    tracer = _TapTracer()
    graph = tracer.trace(model)
    _cut(graph, [tracer.outputs[path] for path in paths], keep_output)
    traced = fx.GraphModule(model, graph)
    copied = [
        tensor
        for rewrite in (_fold_batch_norms, _lay_channels_last, _fuse_relus)
        for module in rewrite(traced)
        for tensor in (*module.parameters(), *module.buffers())
    ]
    traced.delete_all_unused_submodules()
    traced.recompile()
    originals = set(map(id, (*model.parameters(), *model.buffers())))
    return Traced(traced, tuple(tensor for tensor in copied if id(tensor) in originals))


class _TapTracer(fx.Tracer):
    """Records the output node of each module, also of modules that are traced into."""

    # Buffers become nodes of the graph, so that every run reads their present values.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, fx.Node] = {}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs[self.path_of_module(m)] = output.node
        return output


def _cut(graph: fx.Graph, taps: list[fx.Node], keep_output: bool) -> None:
    """Let the graph return the taps, and erase all nodes after the last tap if not `keep_output`.

    Unused nodes before the last tap are kept, since they may write in place.
    """
    *body, end = graph.nodes
    end.args = ((end.args[0] if keep_output else None, tuple(taps)),)
    if keep_output:
        return
    for node in reversed(body):
        if node in taps:
            break
        if node.op != "placeholder":
            graph.erase_node(node)


def _fold_batch_norms(traced: fx.GraphModule) -> list[nn.Module]:
    """Fold batch norms into convolutions whose output nothing else reads, such as a tap.

    Like the other rewrites, it applies to weights on a CPU only, and returns the modules whose
    weights the new model copies.
    """
    copied: list[nn.Module] = []
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        conv = _module(traced, _sole_input(node))
        if (
            conv is not None
            and BATCH_NORM_OF.get(type(conv)) is type(norm)
            and norm.running_mean is not None
            and can_watch(conv, norm)
        ):
            _merge(traced, node, fuse_conv_bn_eval(conv, norm))
            copied += (conv, norm)
    return copied


def _lay_channels_last(traced: fx.GraphModule) -> list[nn.Module]:
    """Put weights of 2-D convolutions in channels-last format, which feature maps then take."""
    copied: list[nn.Module] = []
    for node in traced.graph.nodes:
        conv = _module(traced, node)
        if (
            type(conv) is nn.Conv2d
            and not conv.weight.is_contiguous(memory_format=torch.channels_last)
            and can_watch(conv)
        ):
            own = copy.deepcopy(conv).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            _retarget(traced, node, own)
            copied.append(conv)
    return copied


def _fuse_relus(traced: fx.GraphModule) -> list[nn.Module]:
    """Fuse ReLUs with convolutions whose output nothing else reads, such as a tap."""
    copied: list[nn.Module] = []
    for node in list(traced.graph.nodes):
        is_relu = node.target is F.relu or type(_module(traced, node)) is nn.ReLU
        conv = _module(traced, _sole_input(node))
        if (
            is_relu
            and type(conv) is nn.Conv2d
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and can_watch(conv)
        ):
            _merge(traced, node, _ConvReLU(conv))
            copied.append(conv)  # `_ConvReLU` packs a copy of the weights
    return copied


class _ConvReLU(nn.Module):
    """Convolution and ReLU, if possible as one oneDNN operation, which Inductor uses too."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: Tensor | None = None  # the weights in oneDNN's layout for the first images

    def forward(self, maps: Tensor) -> Tensor:
        conv = self.conv
        if (
            maps.dim() != 4
            or not maps.dtype == conv.weight.dtype == torch.float32
            or not torch.backends.mkldnn.is_available()
            or torch.is_autocast_enabled("cpu")
        ):
            return F.relu(conv(maps))
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *geometry, maps.shape
            )
        return torch.ops.mkldnn._convolution_pointwise(
            maps, self.packed, conv.bias, *geometry, "relu", [], ""
        )


def _module(traced: fx.GraphModule, node: fx.Node | None) -> Any:
    """The module that a node calls; None for other nodes."""
    if node is None or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def _sole_input(node: fx.Node) -> fx.Node | None:
    """The node's input, if it has a single one that no other node reads; otherwise None."""
    inputs = node.all_input_nodes
    return inputs[0] if len(inputs) == 1 and len(inputs[0].users) == 1 else None


def _merge(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Replace a node and its only input by one call of `module`."""
    (before,) = node.all_input_nodes
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)
    _retarget(traced, before, module)


def _retarget(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let a node call another module, under a new name, since others may call the old one."""
    node.target = f"own_{node.name}"
    traced.add_module(node.target, module)
