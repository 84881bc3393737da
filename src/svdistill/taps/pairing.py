"""Pairs of a teacher's and a student's stages: found by `pair_taps`, or chosen by the user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, nearest, require_count
from svdistill.taps.recording import FeatureTaps, TapPairs, channels_first, module_path
from svdistill.taps.stages import (
    FoundStage,
    FoundStages,
    ModuleOutput,
    Stage,
    dry_run,
    find_stages,
    first_images,
    trial_run,
)

BY_USER = "chosen by you"
TABLE_COLUMNS = 100  # in a wider table, teacher and student are printed on two lines
EQUAL_SIZE = 1.5  # factor on the agreement of two stages whose maps have equal height and width


@dataclass(frozen=True)
class PairedTap:
    """A stage of the teacher, the student's stage that learns from it, and why they are paired."""

    teacher: Stage
    student: Stage
    why: str

    @property
    def needs_adapter(self) -> bool:
        """Whether a loss that compares channels needs a projection of the student's features."""
        return self.teacher.channels != self.student.channels


@dataclass(frozen=True)
class PairedTaps:
    """Pairs of a teacher's and a student's stages, from input to output; `print` shows a table.

    Attributes:
        rows: the pairs.
        teacher_modules: every module of the teacher that can be tapped, with its shape.
        student_modules: the same for the student.
    """

    rows: tuple[PairedTap, ...]
    teacher_modules: tuple[Stage, ...] = field(repr=False)
    student_modules: tuple[Stage, ...] = field(repr=False)

    def __post_init__(self) -> None:
        for network in ("teacher", "student"):
            paths = [module_path(getattr(row, network).path) for row in self.rows]
            if len(set(paths)) < len(paths):
                raise ArgumentError(
                    network, expected="each module once", got=paths, remedy="drop a row first"
                )

    @property
    def pairs(self) -> TapPairs:
        """The module paths of the pairs, without shapes."""
        return TapPairs(
            tuple(row.teacher.path for row in self.rows),
            tuple(row.student.path for row in self.rows),
        )

    def replace(
        self, row: int, *, teacher: str | None = None, student: str | None = None
    ) -> PairedTaps:
        """Return a copy with other modules in one row.

        Args:
            row: number of the row, from 0.
            teacher: path of the teacher's new module; None keeps the present one.
            student: the same for the student.

        Raises:
            ArgumentError: there is no such row; a module cannot be tapped, or is in another row.
        """
        new = replace(self._row(row), why=BY_USER)
        if teacher is not None:
            new = replace(new, teacher=_find("teacher", teacher, self.teacher_modules))
        if student is not None:
            new = replace(new, student=_find("student", student, self.student_modules))
        return replace(self, rows=(*self.rows[:row], new, *self.rows[row + 1 :]))

    def drop(self, row: int) -> PairedTaps:
        """Return a copy without one row, numbered from 0; `ArgumentError` if there is none."""
        self._row(row)
        return replace(self, rows=(*self.rows[:row], *self.rows[row + 1 :]))

    def _row(self, row: int) -> PairedTap:
        if row not in range(len(self.rows)):
            raise ArgumentError(
                "row",
                expected=f"the number of a row, 0 to {len(self.rows) - 1}",
                got=row,
                remedy="print the pairs to see them",
            )
        return self.rows[row]

    def __str__(self) -> str:
        return self.table(adapters=any(row.needs_adapter for row in self.rows))

    def table(self, *, adapters: bool) -> str:
        """The pairs as a text table; with long paths, the student is below the teacher.

        Args:
            adapters: whether the table has a column that shows where adapters are needed.
        """
        heading = ("adapter",) if adapters else ()
        wide = [("", "teacher", "shape", "student", "shape", *heading, "why")]
        high = [("", "teacher, and below it student", "shape", *heading, "why")]
        for number, row in enumerate(self.rows):
            channels = f"{row.student.channels} -> {row.teacher.channels}"
            adapter = (channels if row.needs_adapter else "no",) if adapters else ()
            teacher = (str(number), row.teacher.path, _shape(row.teacher))
            student = (row.student.path, _shape(row.student))
            wide.append((*teacher, *student, *adapter, row.why))
            high += [(*teacher, *("" for _ in adapter), row.why), ("", *student, *adapter, "")]
        table = _aligned(wide)
        return table if max(map(len, table.splitlines())) <= TABLE_COLUMNS else _aligned(high)


def _find(network: str, path: str, modules: Sequence[Stage]) -> Stage:
    shapes = {stage.path: stage.shape for stage in modules}
    shape = shapes.get(module_path(path))
    if shape is None:
        raise ArgumentError(
            network,
            expected="the path of a module that runs once and puts out one tensor that lasts",
            got=repr(path),
            remedy=nearest(path, shapes),
        )
    if module_path(path) == path:
        return Stage(path, shape)
    return Stage(path, tuple(channels_first(nn.Module(), path, torch.empty(1, *shape)).shape[1:]))


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def pair_taps(
    teacher: nn.Module, student: nn.Module, example: Tensor, *, count: int = 4
) -> PairedTaps:
    """Find the stages of two networks and pair them.

    Each network runs once on at most two of the images, in eval mode, without gradients and without
    a change of its state. A stage is the last block whose feature map has a given size, see
    `find_stages`; in an isotropic network, such as a ViT, all of whose blocks have one size, every
    block is a stage. Of all pairings that keep the order of both networks' stages, the one with the
    largest sum of agreements is chosen, where the agreement of two stages is::

        1 - |depth_T - depth_S|, times 1.5 for maps of equal height and width

    The depth of a stage is the fraction of the network's layers with weights that run before its
    end. For two isotropic networks, `count` evenly spaced blocks are paired.

    Args:
        teacher: any `nn.Module` that takes images alone.
        student: another network that takes images alone.
        example: images [B, 3, H, W] as both networks take them, at least one; two are better.
        count: largest number of pairs, at least 2; the deepest pairs are kept.

    Returns:
        The pairs from input to output; `replace` and `drop` return changed copies.

    Raises:
        ArgumentError: `example` holds no images, a network fails on them, both networks are the
            same object, or fewer than two pairs are found.

    Example:
        >>> import torch
        >>> def network(channels):
        ...     return nn.Sequential(
        ...         nn.Conv2d(3, channels, 3), nn.ReLU(), nn.MaxPool2d(2),
        ...         nn.Conv2d(channels, channels, 3), nn.ReLU(),
        ...     )
        >>> print(pair_taps(network(16), network(8), torch.rand(2, 3, 10, 10)))
           teacher  shape   student  shape  adapter  why
        0  1        16x8x8  1        8x8x8  8 -> 16  both 8x8
        1  2        16x4x4  2        8x4x4  8 -> 16  both 4x4
        2  4        16x2x2  4        8x2x2  8 -> 16  both 2x2
    """
    require_count("count", count, minimum=2)
    outputs = _outputs(teacher, student, example)
    image = (example.shape[2], example.shape[3])
    found_T, found_S = (find_stages(modules, image) for modules in outputs)
    isotropic = found_T.isotropic and found_S.isotropic
    stages_T, stages_S = found_T.stages, found_S.stages
    if isotropic:
        count = min(count, len(stages_T), len(stages_S))
        stages_T, stages_S = evenly_spaced(stages_T, count), evenly_spaced(stages_S, count)
    pairs = align_stages(stages_T, stages_S)[-count:]
    if len(pairs) < 2:
        raise ArgumentError(
            "taps",
            expected="two stages or more that can be paired",
            got=f"the teacher's {_list(found_T)} and the student's {_list(found_S)}",
            remedy="choose modules yourself, with TapPairs(teacher=[...], student=[...]), or "
            "--teacher_taps and --student_taps",
        )
    rows = (PairedTap(t.stage, s.stage, _why(t, s, by_depth=isotropic)) for t, s in pairs)
    return PairedTaps(tuple(rows), *map(_tappable, outputs))


def describe_pairs(
    teacher: nn.Module, student: nn.Module, pairs: TapPairs, example: Tensor
) -> PairedTaps:
    """Make `PairedTaps` of modules that you chose, with the shapes of their outputs.

    Args:
        teacher: any `nn.Module` that takes images alone.
        student: another network that takes images alone.
        pairs: module paths, as many of the teacher as of the student, see `FeatureTaps`.
        example: images [B, 3, H, W] as both networks take them.

    Raises:
        ArgumentError: as in `pair_taps`; a module cannot be tapped, or the numbers of paths differ.

    Example:
        >>> import torch
        >>> teacher, student = (nn.Sequential(nn.Conv2d(3, d, 3), nn.ReLU()) for d in (16, 8))
        >>> print(describe_pairs(teacher, student, TapPairs(["1"], ["1"]), torch.rand(2, 3, 4, 4)))
           teacher  shape   student  shape  adapter  why
        0  1        16x2x2  1        8x2x2  8 -> 16  chosen by you
    """
    require_equally_many(pairs)
    outputs = _outputs(teacher, student, example)
    stages_T = _recorded("teacher", teacher, pairs.teacher, example)
    stages_S = _recorded("student", student, pairs.student, example)
    rows = (PairedTap(t, s, BY_USER) for t, s in zip(stages_T, stages_S, strict=True))
    return PairedTaps(tuple(rows), *map(_tappable, outputs))


def require_equally_many(pairs: TapPairs) -> None:
    """Raise `ArgumentError` unless there are as many taps of the teacher as of the student."""
    if len(pairs.teacher) != len(pairs.student):
        raise ArgumentError(
            "taps",
            expected="as many of the teacher as of the student",
            got=f"{len(pairs.teacher)} and {len(pairs.student)}",
            remedy="pair them one to one",
        )


def require_distinct_networks(teacher: nn.Module | None, student: nn.Module) -> None:
    """Raise `ArgumentError` if the teacher is the student or one of its modules.

    Freezing such a teacher would freeze the student.
    """
    for path, module in student.named_modules():
        if path and module is teacher:
            raise ArgumentError(
                "student",
                expected="a network that does not contain the teacher",
                got=f"one whose module {path!r} is the teacher",
                remedy="copy the teacher with copy.deepcopy, or build the student without it",
            )
    if teacher is student:
        raise ArgumentError(
            "student",
            expected="another network than the teacher",
            got="the same object",
            remedy="copy it with copy.deepcopy",
        )


def align_stages(
    teacher: Sequence[FoundStage], student: Sequence[FoundStage]
) -> list[tuple[FoundStage, FoundStage]]:
    """Choose the pairing with the largest sum of agreements that keeps the order of the stages."""

    @cache
    def best(t: int, s: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        """The best sum and pairing of the teacher's first t and the student's first s stages."""
        if not (t and s):
            return 0.0, ()
        agreement, pairs = best(t - 1, s - 1)
        agreement += _agreement(teacher[t - 1], student[s - 1])
        return max(best(t - 1, s), best(t, s - 1), (agreement, (*pairs, (t - 1, s - 1))))

    return [(teacher[t], student[s]) for t, s in best(len(teacher), len(student))[1]]


def _agreement(teacher: FoundStage, student: FoundStage) -> float:
    in_depth = 1 - abs(teacher.depth - student.depth)
    return EQUAL_SIZE * in_depth if teacher.map_size == student.map_size else in_depth


def evenly_spaced(stages: Sequence[FoundStage], count: int) -> tuple[FoundStage, ...]:
    """Choose `count` evenly spaced stages, including the last."""
    return tuple(stages[math.ceil(len(stages) * k / count) - 1] for k in range(1, count + 1))


def _why(teacher: FoundStage, student: FoundStage, *, by_depth: bool) -> str:
    if teacher.map_size == student.map_size and not by_depth:
        return "both {}x{}".format(*teacher.map_size)
    depths = [f"{stage.depth:.0%}" for stage in (teacher, student)]
    return "at " + " and ".join(dict.fromkeys(depths)) + " depth"


def _outputs(
    teacher: nn.Module, student: nn.Module, example: Tensor
) -> tuple[tuple[ModuleOutput, ...], tuple[ModuleOutput, ...]]:
    require_distinct_networks(teacher, student)
    return dry_run("teacher", teacher, example), dry_run("student", student, example)


def _recorded(
    argument: str, network: nn.Module, paths: Sequence[str], example: Tensor
) -> list[Stage]:
    """The modules at these paths as stages, with the shapes that `FeatureTaps` records."""
    taps = FeatureTaps(network, paths)
    with trial_run(argument, network, example):
        features = taps.run(first_images(network, example)).features
    return [Stage(path, tuple(f.shape[1:])) for path, f in zip(paths, features, strict=True)]


def _tappable(outputs: Sequence[ModuleOutput]) -> tuple[Stage, ...]:
    return tuple(Stage(output.path, output.shape) for output in outputs if output.shape)


def _list(found: FoundStages) -> str:
    sizes = ((stage.stage.path, *stage.map_size) for stage in found.stages[-8:])
    return ", ".join(f"{path} ({height}x{width})" for path, height, width in sizes) or "none"
