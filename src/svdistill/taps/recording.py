"""Record the outputs of named modules of any network, in the layout that the losses take.

The layout of an output is declared by a suffix of the module's path, or inferred from the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svdistill.common import ArgumentError, nearest
from svdistill.linalg import uncompiled

CHANNELS_LAST: Final = ":nhwc"

# For each suffix of a path: the dimensions of the output, and their permutation to the layout that
# the losses take. A sequence [B, D, L] becomes a map [B, D, 1, L] and not tokens [B, T, D], since
# losses may take tokens for a square grid.
LAYOUTS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    CHANNELS_LAST: ("[B, H, W, D]", (0, 3, 1, 2)),
    ":ncl": ("[B, D, L]", (0, 1, 2)),
    ":nlc": ("[B, T, D]", (0, 1, 2)),
    ":ncdhw": ("[B, D, T, H, W]", (0, 1, 2, 3, 4)),
    ":ndhwc": ("[B, T, H, W, D]", (0, 4, 1, 2, 3)),
}

_FIRST: Final = {3: ":ncl", 5: ":ncdhw"}
_LAST: Final = {3: ":nlc", 5: ":ndhwc"}
_CONVOLUTIONS: Final = {
    3: (nn.Conv1d, nn.ConvTranspose1d),
    5: (nn.Conv3d, nn.ConvTranspose3d),
}

# Modules whose inputs and outputs have the channels in dimension 1.
_FIRST_LAYERS: Final = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.Conv3d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm3d),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    *(nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
)

_LAST_LAYERS: Final = (nn.Linear, nn.LayerNorm, nn.Embedding)
_EITHER: Final = (nn.Flatten, nn.Unflatten, nn.Unfold)


class TapPairs(NamedTuple):
    """Module paths of the teacher's taps and of the student's, both in the order of execution."""

    teacher: tuple[str, ...]
    student: tuple[str, ...]


class Recording(NamedTuple):
    """The output of a network, and the features (outputs of modules) at its taps."""

    output: Any
    features: tuple[Tensor, ...]


class FeatureTaps:
    """Taps on a network: run the network and record the outputs of the named modules.

    Forward hooks exist only during a run, and are removed even if the network raises an error.

    Args:
        model: any `nn.Module`.
        paths: module paths as in `model.named_modules()`, e.g. `"layer1.0.conv2"`. For a module
            that returns [B, H, W, D], as in timm's Swin, write `"layers.0:nhwc"`: it is
            recorded as [B, D, H, W]. Outputs of three and five dimensions are taken as [B, D, L]
            and [B, D, T, H, W] if the module is a convolution or a block of convolutions, and as
            [B, T, D] in networks without 1-D convolutions; where that is ambiguous, write
            `"block:ncl"` for [B, D, L], `":nlc"` for [B, T, D], `":ncdhw"` for [B, D, T, H, W] or
            `":ndhwc"`. A sequence [B, D, L] is recorded as a map [B, D, 1, L].
        argument: the name of `paths` in errors.

    Raises:
        ArgumentError: a path is not in the model, or occurs twice.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> recording = FeatureTaps(network, ["1"]).run(torch.rand(2, 3, 6, 6))
        >>> recording.output.shape, recording.features[0].shape
        (torch.Size([2, 128]), torch.Size([2, 8, 4, 4]))
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], argument: str = "taps") -> None:
        if isinstance(paths, str):
            raise ArgumentError(
                argument,
                expected="a list of module paths",
                got=repr(paths),
                remedy=f"write [{paths!r}]",
            )
        modules = dict(model.named_modules())
        for path in paths:
            if module_path(path) not in modules or not module_path(path):
                raise ArgumentError(
                    argument,
                    expected=f"module paths of {type(model).__name__}",
                    got=repr(path),
                    remedy=nearest(path, (name for name in modules if name)),
                )
            if isinstance(modules[module_path(path)], torch.jit.ScriptModule):
                raise ArgumentError(
                    argument,
                    expected="modules whose outputs can be read",
                    got=f"{path!r} of a TorchScript module",
                    remedy="give the network that it was made from, or a loss that reads the "
                    "logits alone, with taps=[]",
                )
        if len(set(map(module_path, paths))) < len(paths):
            raise ArgumentError(
                argument,
                expected="each module once",
                got=list(paths),
                remedy="remove the repetition",
            )
        self.model = model
        self.paths = tuple(paths)

    @uncompiled  # torch.compile breaks the graph at hooks, and fails to guard some of the pieces
    def run(self, *inputs: Any, **kwargs: Any) -> Recording:
        """Call the model with these arguments and record the outputs at its taps.

        Returns:
            `Recording(output, features)`; gradients flow through the features.

        Raises:
            ArgumentError: a tap did not run or ran more than once; its output is not one tensor,
                has an unknown layout, or was overwritten in place by a later module.
        """
        recorded = _Recorded(self.model, self.paths)
        with watching(self.model, self.paths, recorded.add):
            output = self.model(*inputs, **kwargs)
        return Recording(output, recorded.features())

    def run_to_last_tap(self, *inputs: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Call the model, and return the features as soon as every tap has run.

        The rest of the forward pass is not run, so that a part of it that would run a tap again, or
        overwrite its output, is not detected.
        """
        recorded = _Recorded(self.model, self.paths)

        def add_or_leave(path: str, output: object) -> None:
            recorded.add(path, output)
            if recorded.complete():
                raise _LastTapRan

        with watching(self.model, self.paths, add_or_leave), suppress(_LastTapRan):
            self.model(*inputs, **kwargs)
        return recorded.features()


@contextmanager
def watching(
    model: nn.Module, paths: Iterable[str], see: Callable[[str, object], None]
) -> Iterator[None]:
    """Within the block, call `see(path, output)` after each run of a module of `paths`."""

    def hook(path: str, _module: nn.Module, _inputs: object, output: object) -> None:
        see(path, output)

    handles: list[RemovableHandle] = []
    try:
        for path in paths:
            module = model.get_submodule(module_path(path))
            handles.append(module.register_forward_hook(partial(hook, path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LastTapRan(BaseException):
    """Raised to end a forward pass; not an `Exception`, since a model may catch those."""


class _Recorded:
    """The outputs at taps in one forward pass, with their write counts when they were recorded."""

    def __init__(self, model: nn.Module, paths: tuple[str, ...]) -> None:
        self.model = model
        self.outputs: dict[str, list[tuple[Tensor, int]]] = {path: [] for path in paths}

    def add(self, path: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise ArgumentError(
                f"tap {path!r}",
                expected="a module that puts out one tensor",
                got=type(output).__name__,
                remedy="tap a module inside it",
            )
        self.outputs[path].append((output, write_count(output)))

    def complete(self) -> bool:
        return all(self.outputs.values())

    def features(self) -> tuple[Tensor, ...]:
        return tuple(
            channels_first(self.model, path, _only(path, outputs))
            for path, outputs in self.outputs.items()
        )


def _only(path: str, outputs: list[tuple[Tensor, int]]) -> Tensor:
    if len(outputs) != 1:
        raise ArgumentError(
            f"tap {path!r}",
            expected="a module that runs once in a forward pass",
            got=f"{len(outputs)} runs",
            remedy="tap a module around it"
            if outputs
            else "tap one that runs; of a compiled model, tap the original",
        )
    tensor, version = outputs[0]
    if write_count(tensor) != version:
        raise ArgumentError(
            f"tap {path!r}",
            expected="an output that later modules leave alone",
            got="one overwritten in place",
            remedy="tap the module that overwrites it (often an in-place ReLU)",
        )
    return tensor


def write_count(tensor: Tensor) -> int:
    """Number of in-place writes to a tensor; 0 for inference tensors, which do not count them."""
    return 0 if tensor.is_inference() else tensor._version


def module_path(path: str) -> str:
    """The path of a tap without the suffix that declares its layout."""
    return path.removesuffix(declared_layout(path))


def declared_layout(path: str) -> str:
    """The suffix of a tap's path that declares its layout, such as ``:nhwc``; empty if none."""
    return next((layout for layout in LAYOUTS if path.endswith(layout)), "")


def channels_first(model: nn.Module, path: str, output: Tensor) -> Tensor:
    """Permute the output of a tap to the layout that the losses take.

    Outputs of two and four dimensions are returned unchanged, as vectors [B, D] and maps
    [B, D, H, W], unless the path declares another layout. The layout of outputs of three and five
    dimensions is inferred from the module, unless it is declared.

    Returns:
        [B, D, H, W], [B, D, T, H, W], [B, T, D] or [B, D]; a sequence [B, D, L] as [B, D, 1, L].

    Raises:
        ArgumentError: the output has another number of dimensions than declared, or its layout is
            neither declared nor clear from the module.
    """
    layout = declared_layout(path)
    if not layout and output.ndim in _FIRST:
        layout = _module_layout(model, path, output)
    if not layout:
        return output
    dimensions, permutation = LAYOUTS[layout]
    if output.ndim != len(permutation):
        raise ArgumentError(
            f"tap {path!r}",
            expected=f"an output {dimensions}",
            got=f"shape {tuple(output.shape)}",
            remedy=f"leave {layout!r} out",
        )
    return output.unsqueeze(2) if layout == ":ncl" else output.permute(permutation)


def _module_layout(model: nn.Module, path: str, output: Tensor) -> str:
    """Infer the layout of an output of three or five dimensions from the tapped module."""
    dims, module = output.ndim, model.get_submodule(path)
    if isinstance(module, _FIRST_LAYERS):
        return _FIRST[dims]
    if isinstance(module, _LAST_LAYERS):
        return _LAST[dims]
    layers = list(module.modules())
    widths = {m.out_channels for m in layers if isinstance(m, _CONVOLUTIONS[dims])}
    of_tokens = any(isinstance(m, _LAST_LAYERS) or _normalises_last(m) for m in layers)
    if widths and not of_tokens and output.shape[1] in widths and output.shape[-1] not in widths:
        return _FIRST[dims]
    if dims == 3 and not widths and not isinstance(module, _EITHER):
        # Networks without 1-D convolutions, such as transformers, give tokens; so do modules that
        # hold layer norms, as in transformers with 1-D convolutions outside of their blocks.
        sequences = any(isinstance(m, _CONVOLUTIONS[3]) for m in model.modules())
        if not sequences or any(map(_normalises_last, layers)):
            return _LAST[dims]
    first, last = _FIRST[dims], _LAST[dims]
    raise ArgumentError(
        f"tap {path!r}",
        expected=f"a declared layout, {LAYOUTS[first][0]} or {LAYOUTS[last][0]}, which "
        f"{type(module).__name__} does not tell",
        got=f"shape {tuple(output.shape)}",
        remedy=f"write {path + first!r} if the channels are in dimension 1, {path + last!r} if "
        "they are in the last",
    )


def _normalises_last(module: nn.Module) -> bool:
    """Whether a module is a layer norm, of torch or of another library."""
    named = type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
    return named or isinstance(module, nn.LayerNorm)
