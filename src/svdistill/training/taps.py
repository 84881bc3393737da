"""Choose the taps (modules whose outputs are compared) of teacher and student, and pair them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor, nn

from svdistill.common import ArgumentError
from svdistill.config import CacheConfig, DistillConfig
from svdistill.networks import PaperNetwork, profile_network
from svdistill.store import Manifest
from svdistill.taps import (
    FeatureTaps,
    FoundStage,
    PairedTap,
    PairedTaps,
    Stage,
    TapPairs,
    align_stages,
    describe_pairs,
    dry_run,
    evenly_spaced,
    find_stages,
    map_size,
    pair_taps,
)
from svdistill.training.setup import build_losses

# Number of pairs, or of a teacher's taps, if the user chooses no taps.
COUNT: Final = 4

NO_TAPS: Final = TapPairs((), ())


def paired_taps(
    config: DistillConfig, teacher: nn.Module, student: nn.Module, images: Tensor, *, needed: bool
) -> PairedTaps | TapPairs:
    """Pair the user's taps, those of the paper's networks, or stages found by a trial forward pass.

    Both networks must be on the device of `images`, a batch of two. If the loss needs no taps (not
    `needed`), the result is empty.

    Raises:
        ArgumentError: taps are given for one network only, a path is unknown, or the taps cannot be
            paired.
    """
    paths_T = own_taps("teacher_taps", teacher, config.teacher_taps)
    paths_S = own_taps("student_taps", student, config.student_taps)
    if not needed:
        return NO_TAPS
    if paths_T and paths_S:
        paired = describe_pairs(teacher, student, TapPairs(paths_T, paths_S), images)
        if config.teacher_taps or config.student_taps:
            return paired
        return replace(paired, rows=tuple(replace(row, why="the paper's") for row in paired.rows))
    for argument, other in (("student", config.teacher_taps), ("teacher", config.student_taps)):
        if other:
            raise ArgumentError(
                f"{argument}_taps",
                expected="module paths of both networks, or of neither",
                got="nothing",
                remedy=f"give --{argument}_taps, as many, in the order of the data's flow",
            )
    return pair_taps(teacher, student, images, count=COUNT)


def own_taps(argument: str, network: nn.Module, chosen: list[str]) -> tuple[str, ...]:
    """The chosen taps; without any, those of a network of the paper, or none for other networks."""
    if not chosen and isinstance(network, PaperNetwork):
        return network.tap_paths
    return FeatureTaps(network, chosen, argument).paths  # raises for an unknown path


def tap_paths(argument: str, network: nn.Module, chosen: list[str]) -> tuple[str, ...]:
    """Like `own_taps`, but raises an error if there are no taps.

    Raises:
        ArgumentError: no taps were chosen, and the network is none of the paper's.
    """
    paths = own_taps(argument, network, chosen)
    if not paths:
        raise ArgumentError(
            argument,
            expected="module paths, since the network is none of the paper's",
            got="nothing",
            remedy=f"give --{argument}, in the order of the data's flow",
        )
    return paths


def taps_without_student(
    config: CacheConfig, teacher: nn.Module, images: Tensor
) -> tuple[str, ...]:
    """Choose a teacher's taps before its student is known, for a knowledge store.

    They are the user's taps, those of a network of the paper, or else the last stages, or evenly
    spaced blocks of an isotropic network such as a ViT. Empty if the loss reads logits only.
    """
    paths = own_taps("teacher_taps", teacher, config.teacher_taps)
    if paths or not build_losses(config).whole.needs_taps:
        return paths
    found = find_stages(dry_run("teacher", teacher, images), _sides(images))
    stages = found.stages
    if found.isotropic:
        stages = evenly_spaced(stages, min(COUNT, len(stages)))
    return tuple(stage.stage.path for stage in stages[-COUNT:])


def taps_of_store(
    config: DistillConfig, known: Manifest, student: nn.Module, images: Tensor, *, needed: bool
) -> PairedTaps | TapPairs:
    """Pair a student's taps with those of a knowledge store; empty if the loss needs no taps.

    Raises:
        ArgumentError: a path is unknown, or the numbers of taps of student and store differ.
    """
    paths = own_taps("student_taps", student, config.student_taps)
    if not needed:
        return NO_TAPS
    taps = tuple(map(Stage, known.teacher_taps, known.tap_shapes))
    if paths:
        shapes = profile_network(student, images.shape[1:], paths).taps
        stages = [Stage(path, shape) for path, shape in shapes]
    else:
        stages = _stages_for(taps, student, images)
    if len(stages) != len(taps):
        raise ArgumentError(
            "student_taps",
            expected=f"as many as the store's teacher has: {', '.join(known.teacher_taps)}",
            got=", ".join(stage.path for stage in stages) or "no stages",
            remedy="give --student_taps, in the order of the data's flow",
        )
    rows = (PairedTap(*pair, "for the store's tap") for pair in zip(taps, stages, strict=True))
    return PairedTaps(tuple(rows), taps, tuple(stages))


def _stages_for(taps: tuple[Stage, ...], student: nn.Module, images: Tensor) -> list[Stage]:
    """Find the student's stages that fit a teacher's taps best, assuming evenly spaced taps."""
    sides = _sides(images)
    teacher = [
        FoundStage(tap, map_size(tap.shape, sides), number / len(taps))
        for number, tap in enumerate(taps, start=1)
    ]
    found = find_stages(dry_run("network", student, images), sides)
    return [of_student.stage for _, of_student in align_stages(teacher, found.stages)]


def _sides(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
