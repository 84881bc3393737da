"""Arguments of a Distiller: networks, tap paths, adapters and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from svdistill.common import ArgumentError
from svdistill.distillation.adapters import Adapters
from svdistill.losses import Knowledge
from svdistill.taps import PairedTaps, TapPairs, require_distinct_networks

Teacher = TypeVar("Teacher")


def require_module(argument: str, network: object) -> None:
    """Raise `ArgumentError` unless this is an `nn.Module`."""
    if not isinstance(network, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module",
            got=type(network).__name__,
            remedy="of an exported program give .module(); wrap a function in an nn.Module",
        )


def require_networks(teacher: nn.Module | None, student: nn.Module) -> None:
    """Raise `ArgumentError` unless these are two networks, or a student alone."""
    require_module("student", student)
    if teacher is not None:
        require_module("teacher", teacher)
    require_distinct_networks(teacher, student)


def tap_paths(
    taps: PairedTaps | TapPairs | Sequence[str], teacher: nn.Module | None, student: nn.Module
) -> TapPairs:
    """The module paths of both networks; of a compiled one, the paths inside of it."""
    pairs = taps.pairs if isinstance(taps, PairedTaps) else taps
    of_teacher, of_student = pairs if isinstance(pairs, TapPairs) else (pairs, pairs)
    return TapPairs(_within(teacher, of_teacher), _within(student, of_student))


def _within(model: nn.Module | None, paths: Sequence[str]) -> Any:
    """The paths in what `torch.compile` returned; a string stays, for `FeatureTaps` to refuse."""
    if isinstance(paths, str):
        return paths
    compiled = isinstance(getattr(model, "_orig_mod", None), nn.Module)
    start = "_orig_mod." if compiled else ""
    return tuple(path if path.startswith(start) else start + path for path in paths)


def adapters_or_needed(
    adapters: Adapters | None,
    taps: PairedTaps | TapPairs | Sequence[str],
    count: int,
    *,
    needed: bool,
) -> Adapters | None:
    """The given adapters, or those that paired taps with different channels need."""
    if adapters is None and needed and isinstance(taps, PairedTaps):
        rows = taps.rows
        if any(row.needs_adapter for row in rows):
            adapters = Adapters(
                [row.student.channels for row in rows], [row.teacher.channels for row in rows]
            )
    if adapters is not None and len(adapters.student_channels) != count:
        raise ArgumentError(
            "adapters",
            expected=f"one for each of the {count} taps",
            got=len(adapters.student_channels),
            remedy="give Adapters the channels of every tap, also where they agree",
        )
    return adapters


def require_teacher(teacher: Teacher | None) -> Teacher:
    """The teacher; raise `ArgumentError` if there is none."""
    if teacher is None:
        raise ArgumentError(
            "knowledge",
            expected="the teacher's knowledge of the images, since there is no teacher",
            got="nothing",
            remedy="read it from a KnowledgeStore, or give the Distiller a teacher",
        )
    return teacher


def require_no_knowledge(inputs: tuple[Any, ...]) -> None:
    """Raise `ArgumentError` if knowledge was passed by position, among a network's inputs."""
    if any(isinstance(given, Knowledge) for given in inputs):
        raise ArgumentError(
            "knowledge",
            expected="a keyword argument: the others are passed on to the networks",
            got="knowledge by position",
            remedy="write distiller(images, knowledge=knowledge)",
        )
