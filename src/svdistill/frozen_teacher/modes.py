"""Eval mode, also of TorchScript modules and exported programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from torch import fx, nn

from svdistill.errors import ArgumentError

# Operators with a flag of this name, which an export fixes.
TRAINING_FLAGS: Final = ("training", "train", "is_training")


def require_module(argument: str, network: object) -> None:
    """Raise `ArgumentError` unless this is an `nn.Module`."""
    if not isinstance(network, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module",
            got=type(network).__name__,
            remedy="of an exported program give .module(); wrap a function in an nn.Module",
        )


def require_eval_export(network: nn.Module) -> None:
    """Raise `ArgumentError` if a part of a network was exported in training mode.

    The mode is fixed in an exported program: its dropout and batch norms would stay in training.
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
    """Put a network in eval mode; an exported program, which has but one mode, counts as in it."""
    try:
        network.eval()
    except (NotImplementedError, AttributeError):  # exported; frozen TorchScript
        for module in network.modules():
            if getattr(module, "training", False):
                module.training = False


@contextmanager
def naming_exports(network: nn.Module) -> Iterator[None]:
    """Raise `ArgumentError` where an exported program refuses the shapes of its inputs."""
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
