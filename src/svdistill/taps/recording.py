"""Record the outputs of named modules of any network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svdistill.common import ArgumentError, nearest
from svdistill.linalg import uncompiled
from svdistill.taps.layouts import channels_first, module_path


class TapPairs(NamedTuple):
    """Module paths of a teacher's taps and a student's, in the order of the data's flow."""

    teacher: tuple[str, ...]
    student: tuple[str, ...]


class Recording(NamedTuple):
    """The output of a network, and the features at its taps."""

    output: Any
    features: tuple[Tensor, ...]


class FeatureTaps:
    """Taps on a network: run it and record the outputs of the named modules beside its own.

    The hooks exist only during `run`; the network is not changed, also if it fails.

    Args:
        model: any `nn.Module`.
        paths: module paths as `model.named_modules()` gives them, e.g. `"layer1.0.conv2"`. For a
            module that gives [B, H, W, D], as in timm's Swin, write `"layers.0:nhwc"`: it is
            recorded as [B, D, H, W]. Outputs of three and five dimensions are taken as [B, D, L]
            and [B, D, T, H, W] if the module is a convolution or a block of convolutions, and as
            [B, T, D] in networks without 1-D convolutions; where that is ambiguous, write
            `"block:ncl"` for [B, D, L], `":nlc"` for [B, T, D], `":ncdhw"` for [B, D, T, H, W] or
            `":ndhwc"`. A sequence [B, D, L] is recorded as a map [B, D, 1, L].

    Raises:
        ArgumentError: a path is not in the model, or occurs twice.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> recording = FeatureTaps(network, ["1"]).run(torch.rand(2, 3, 6, 6))
        >>> recording.output.shape, recording.features[0].shape
        (torch.Size([2, 128]), torch.Size([2, 8, 4, 4]))
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        if isinstance(paths, str):
            raise ArgumentError(
                "taps",
                expected="a list of module paths",
                got=repr(paths),
                remedy=f"write [{paths!r}]",
            )
        modules = dict(model.named_modules())
        for path in paths:
            if module_path(path) not in modules or not module_path(path):
                raise ArgumentError(
                    "taps",
                    expected=f"module paths of {type(model).__name__}",
                    got=repr(path),
                    remedy=nearest(path, (name for name in modules if name)),
                )
            if isinstance(modules[module_path(path)], torch.jit.ScriptModule):
                raise ArgumentError(
                    "taps",
                    expected="modules whose outputs can be read",
                    got=f"{path!r} of a TorchScript module",
                    remedy="give the network that it was made from, or a loss that reads the "
                    "logits alone, with taps=[]",
                )
        if len(set(map(module_path, paths))) < len(paths):
            raise ArgumentError(
                "taps", expected="each module once", got=list(paths), remedy="remove the repetition"
            )
        self.model = model
        self.paths = tuple(paths)

    @uncompiled  # a compiler leaves hooks' frames in pieces, some of which it fails to guard
    def run(self, *inputs: Any, **kwargs: Any) -> Recording:
        """Call the model with these arguments and record its taps.

        Returns:
            `Recording(output, features)`; the features carry their graph.

        Raises:
            ArgumentError: a tap did not run or ran twice, its output is not one tensor, has an
                unknown layout, or was later overwritten in place.
        """
        recorded = _Recorded(self.model, self.paths)
        with watching(self.model, self.paths, recorded.add):
            output = self.model(*inputs, **kwargs)
        return Recording(output, recorded.features())

    def run_to_last_tap(self, *inputs: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Call the model, end the forward pass as soon as every tap has run; return the features.

        A later part that runs a tap again, or overwrites its output, is not noticed.
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
    """Call `see(path, output)` after each run of one of these modules."""

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
    """Ends a forward pass; no `Exception`, since a model may catch those."""


class _Recorded:
    """The outputs of taps in one forward pass, each with its write count at that time."""

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
    """Number of in-place writes to a tensor; 0 in inference mode, which does not count them."""
    return 0 if tensor.is_inference() else tensor._version
