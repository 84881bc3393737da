"""The layout of a tap's output: declared by the suffix of its path, or known from its module."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from svdistill.common import ArgumentError

CHANNELS_LAST: Final = ":nhwc"

# Suffix of a path: the dimensions of the output, and the permutation to those that the losses take.
# A sequence [B, D, L] becomes a map [B, D, 1, L], since tokens [B, T, D] may hold a square grid.
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


def module_path(path: str) -> str:
    """The path of a tap without the suffix that declares its layout."""
    return path.removesuffix(declared_layout(path))


def declared_layout(path: str) -> str:
    """The suffix of a tap's path that declares its layout, such as ``:nhwc``, or nothing."""
    return next((layout for layout in LAYOUTS if path.endswith(layout)), "")


def channels_first(model: nn.Module, path: str, output: Tensor) -> Tensor:
    """Permute the output of a tap to the layout that the losses take.

    Maps [B, D, H, W] and vectors [B, D] stay, unless the path declares another layout. The layout
    of outputs of three and five dimensions follows from the module, unless it is declared.

    Returns:
        [B, D, H, W], [B, D, T, H, W], [B, T, D] or [B, D]; a sequence [B, D, L] as [B, D, 1, L].

    Raises:
        ArgumentError: the output has other dimensions than declared, or its layout is neither
            declared nor known from the module.
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
    """The layout of an output of three or five dimensions, from the tapped module."""
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
        # Transformers have no 1-D convolutions, or none in their blocks.
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
