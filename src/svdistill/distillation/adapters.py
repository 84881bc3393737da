"""Modules trained along with a student: projections to the teacher's channels, losses' modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import ArgumentError, require_count
from svdistill.losses import TransferLoss
from svdistill.taps import PairedTaps, TapPairs


class Adapters(nn.Module):
    """One projection per tap, from the student's channels to the teacher's.

    Where student and teacher have equal numbers of channels, features pass unchanged. Otherwise the
    channels are multiplied by a matrix without bias, the same at every position. It is trained with
    the student and not exported with it.

    The matrices are initialised as semi-orthogonal: to more channels, an isometry that keeps the
    singular values of a map and the angles between its vectors; to fewer channels, an orthogonal
    projection. So at the start of training a loss sees the student's own spectrum.

    Args:
        student_channels: the student's number of channels D_S at every tap.
        teacher_channels: the teacher's number of channels D_T at every tap.

    Raises:
        ArgumentError: the lists have different lengths, or channels are not positive integers; in
            `forward`, features have other numbers of channels than `student_channels`.

    Example:
        >>> adapters = Adapters(student_channels=[8, 16, 32], teacher_channels=[8, 64, 48])
        >>> features = torch.rand(2, 8, 6, 6), torch.rand(2, 16, 3, 3), torch.rand(2, 17, 32)
        >>> [tuple(adapted.shape) for adapted in adapters(features)]
        [(2, 8, 6, 6), (2, 64, 3, 3), (2, 17, 48)]
        >>> [tuple(parameter.shape) for parameter in adapters.parameters()]
        [(64, 16), (48, 32)]
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels):
            raise ArgumentError(
                "teacher_channels",
                expected=f"one number for each of the student's {len(student_channels)} taps",
                got=f"{len(teacher_channels)}",
                remedy="pair the taps one to one",
            )
        for channels in student_channels:
            require_count("student_channels", channels)
        for channels in teacher_channels:
            require_count("teacher_channels", channels)
        self.student_channels = tuple(student_channels)
        self.teacher_channels = tuple(teacher_channels)
        self.projections = nn.ModuleList(
            nn.Identity() if D_S == D_T else _Projection(D_S, D_T)
            for D_S, D_T in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Project the student's features to the teacher's channels.

        Args:
            features: one per tap: maps [B, D_S, H, W] or [B, D_S, T, H, W], tokens [B, T, D_S] or
                vectors [B, D_S].

        Returns:
            Features with D_T channels, in the dtype to which feature and matrix are promoted; under
            autocast, in the dtype of autocast.
        """
        found = tuple(feature.shape[_axis(feature)] for feature in features)
        if found != self.student_channels:
            raise ArgumentError(
                "adapters",
                expected=f"ones for the student's taps, of {list(found)} channels",
                got=f"ones for {list(self.student_channels)}",
                remedy="make them from the channels of the taps that the Distiller is given",
            )
        return tuple(
            project(feature) for project, feature in zip(self.projections, features, strict=True)
        )

    def extra_repr(self) -> str:
        """The numbers of channels, shown by ``print(adapters)``."""
        return f"student_channels={self.student_channels}, teacher_channels={self.teacher_channels}"


def adapters_or_needed(
    adapters: Adapters | None,
    taps: PairedTaps | TapPairs | Sequence[str],
    count: int,
    *,
    needed: bool,
) -> Adapters | None:
    """The given adapters, or new ones if paired taps differ in channels and a loss needs them."""
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


def prepare_loss(
    loss: TransferLoss,
    taps: PairedTaps | TapPairs | Sequence[str],
    adapters: Adapters | None,
) -> None:
    """Let a loss create its trainable modules for the channels of paired taps.

    A loss on logits needs no taps; without any, it is given empty lists of channels.

    Raises:
        ArgumentError: the taps are module paths, whose numbers of channels are not known.
    """
    paths = taps.teacher if isinstance(taps, TapPairs) else taps
    if not isinstance(taps, PairedTaps) and (paths or loss.needs_taps):
        raise ArgumentError(
            "taps",
            expected=f"paired taps, for whose channels {type(loss).__name__} makes modules",
            got="module paths alone",
            remedy="give Distiller the result of pair_taps(teacher, student, images), or of "
            "describe_pairs for modules that you choose",
        )
    rows = taps.rows if isinstance(taps, PairedTaps) else ()
    teacher = [row.teacher.channels for row in rows]
    student = [row.student.channels for row in rows]
    loss.prepare(student if adapters is None else adapters.teacher_channels, teacher)


def adapted(adapters: Adapters | None, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The student's features after the adapters, if there are any."""
    if adapters is None:
        return features
    projected: tuple[Tensor, ...] = adapters(features)
    if any(feature.requires_grad for feature in features):
        return projected
    # If no gradient reaches the student, only the adapters would learn. Without a graph,
    # `Distiller.backward` raises its error that the transfer loss reaches no parameter.
    return tuple(feature.detach() for feature in projected)


class _Projection(nn.Module):
    """Multiplies the channels of a feature by a matrix [D_T, D_S]."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(teacher_channels, student_channels))
        nn.init.orthogonal_(self.weight)

    def forward(self, feature: Tensor) -> Tensor:
        dtype = torch.promote_types(feature.dtype, self.weight.dtype)
        feature, weight = feature.to(dtype), self.weight.to(dtype)
        if feature.ndim == 4:
            return F.conv2d(feature, weight[:, :, None, None])
        if feature.ndim == 5:
            return F.conv3d(feature, weight[:, :, None, None, None])
        return F.linear(feature, weight)


def _axis(feature: Tensor) -> int:
    """The dimension of a feature's channels."""
    return 1 if feature.ndim in (4, 5) else -1
