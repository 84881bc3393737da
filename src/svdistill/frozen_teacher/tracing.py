"""Rewrite a model as a shorter one: up to the last tap, batch norms folded, ReLUs fused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH_NORM_OF = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def trace(model: nn.Module, paths: Sequence[str], *, keep_output: bool) -> fx.GraphModule:
    """Trace a model in eval mode into one that does the same work in fewer steps.

    The new model holds folded and re-ordered weights of its own and shares all others.

    Args:
        model: an `nn.Module` in eval mode; it is left as it is.
        paths: module paths whose outputs are wanted.
        keep_output: whether the model's own output is wanted too; if not, nothing behind the last
            of the taps is left.

    Returns:
        A model that returns `(output or None, features)`.

    Raises:
        Exception: whatever `torch.fx` makes of a model that it cannot trace.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        >>> traced = trace(model.eval(), ["1"], keep_output=False)
        >>> output, features = traced(torch.rand(2, 3, 6, 6))
        >>> output, features[0].shape, len(list(traced.children()))
        (None, torch.Size([2, 8, 4, 4]), 1)
    """
    tracer = _TapTracer()
    graph = tracer.trace(model)
    _cut(graph, [tracer.outputs[path] for path in paths], keep_output)
    traced = fx.GraphModule(model, graph)
    _fold_batch_norms(traced)
    _lay_channels_last(traced)
    _fuse_relus(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _TapTracer(fx.Tracer):
    """Remembers which node each module, leaf or not, puts out."""

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
    """Put out the taps, and erase what runs behind the last one unless the output is wanted.

    Before the last tap nothing is erased, used or not: it may overwrite something in place.
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


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    """Multiply batch norms into the convolutions whose outputs nobody else sees, taps included."""
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        conv = _module(traced, _sole_input(node))
        if (
            conv is not None
            and BATCH_NORM_OF.get(type(conv)) is type(norm)
            and norm.running_mean is not None
            and not _escapes_notice(conv, norm)
        ):
            _merge(traced, node, fuse_conv_bn_eval(conv, norm))


def _lay_channels_last(traced: fx.GraphModule) -> None:
    """On a CPU give 2-D convolutions their weights channels last, and the feature maps follow.

    On other devices which order is faster depends on the precision: there the model's own stays.
    """
    for node in traced.graph.nodes:
        conv = _module(traced, node)
        if (
            type(conv) is nn.Conv2d
            and conv.weight.device.type == "cpu"
            and not conv.weight.is_contiguous(memory_format=torch.channels_last)
            and not _escapes_notice(conv)
        ):
            own = copy.deepcopy(conv).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            _retarget(traced, node, own)


def _fuse_relus(traced: fx.GraphModule) -> None:
    """Join ReLUs on a CPU to the convolutions whose outputs nobody else sees, taps included."""
    for node in list(traced.graph.nodes):
        is_relu = node.target is F.relu or type(_module(traced, node)) is nn.ReLU
        conv = _module(traced, _sole_input(node))
        if (
            is_relu
            and type(conv) is nn.Conv2d
            and conv.weight.device.type == "cpu"
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and not _escapes_notice(conv)
        ):
            _merge(traced, node, _ConvReLU(conv))


class _ConvReLU(nn.Module):
    """Convolution and ReLU, where possible as one operation of oneDNN, as Inductor does it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: Tensor | None = None  # the weights as oneDNN likes them for the first images

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
    """Look up the module that a node calls; None for another node."""
    if node is None or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def _sole_input(node: fx.Node) -> fx.Node | None:
    """Look up the node that this one reads, if it reads only one that nothing else reads."""
    inputs = node.all_input_nodes
    return inputs[0] if len(inputs) == 1 and len(inputs[0].users) == 1 else None


def _merge(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Erase a node and let the one that it reads call `module`, which does the work of both."""
    (before,) = node.all_input_nodes
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)
    _retarget(traced, before, module)


def _retarget(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let a node call another module, under a new name: the old one may be called elsewhere."""
    node.target = f"own_{node.name}"
    traced.add_module(node.target, module)


def _escapes_notice(*modules: nn.Module) -> bool:
    """Whether a weight could be overwritten unnoticed, so that no copy of it may be kept."""
    return any(
        tensor.is_inference()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
