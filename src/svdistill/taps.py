"""Record the feature maps that named modules of any network put out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from svdistill.errors import ArgumentError, nearest


class TapPairs(NamedTuple):
    """Module paths of a teacher's taps and a student's, in the order of the data's flow."""

    teacher: tuple[str, ...]
    student: tuple[str, ...]


class Recording(NamedTuple):
    """What a network returned, and what its taps put out on the way."""

    output: Any
    features: tuple[Tensor, ...]


class FeatureTaps:
    """Taps on a network: run it, and have the outputs of the named modules beside its own.

    The hooks live only while `run` does; the network is otherwise untouched, whatever happens.

    Args:
        model: any `nn.Module`.
        paths: module paths as `model.named_modules()` gives them, e.g. `"layer1.0.conv2"`.

    Raises:
        ArgumentError: a path that the model lacks, with the nearest it has, or one named twice.

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
            if path not in modules or not path:
                raise ArgumentError(
                    "taps",
                    expected=f"module paths of {type(model).__name__}",
                    got=repr(path),
                    remedy=nearest(path, (name for name in modules if name)),
                )
        if len(set(paths)) < len(paths):
            raise ArgumentError(
                "taps", expected="each module once", got=list(paths), remedy="remove the repetition"
            )
        self.model = model
        self.paths = tuple(paths)

    def run(self, *inputs: Any) -> Recording:
        """Call the model and record its taps.

        Args:
            inputs: passed on to the model.

        Returns:
            `Recording(output, features)`; the features carry their graph.

        Raises:
            ArgumentError: a tap that did not run, ran twice, put out something other than one
                tensor, or whose output was later overwritten in place.
        """
        recorded: dict[str, list[tuple[Tensor, int]]] = {path: [] for path in self.paths}

        def record(path: str, _module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise ArgumentError(
                    f"tap {path!r}",
                    expected="a module that puts out one tensor",
                    got=type(output).__name__,
                    remedy="tap a module inside it",
                )
            recorded[path].append((output, _version(output)))

        handles: list[RemovableHandle] = []
        try:
            for path in self.paths:
                module = self.model.get_submodule(path)
                handles.append(module.register_forward_hook(partial(record, path)))
            output = self.model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return Recording(output, tuple(_only(path, recorded[path]) for path in self.paths))


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
    if _version(tensor) != version:
        raise ArgumentError(
            f"tap {path!r}",
            expected="an output that later modules leave alone",
            got="one overwritten in place",
            remedy="tap the module that overwrites it (often an in-place ReLU)",
        )
    return tensor


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; inference mode keeps no count."""
    return 0 if tensor.is_inference() else tensor._version
