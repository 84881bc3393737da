"""How neighbouring taps relate: distillation feature vectors, as means over images.

Shapes: a tap's maps as matrices [N, P, D], positions by channels, of N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.linalg import truncated_svd
from svdistill.losses import dfv
from svdistill.losses.svd import align
from svdistill.report.feature_maps import TappedMaps

IMAGES_AT_ONCE: Final = 8  # whose DFVs are held in memory


@dataclass(frozen=True)
class PairMaps:
    """Distillation feature vectors of two neighbouring taps, by the first vector of each.

    Means over the images, [D_F, D_B] each; channels are in the networks' own order.

    Attributes:
        front, back: paths of the student's taps.
        teacher, before, after: of the teacher, of the student as it began, if that is at hand, and
            as it ended.
        front_order, back_order: the channels by the teacher's mean vector, largest first.
    """

    front: str
    back: str
    teacher: Tensor
    before: Tensor | None
    after: Tensor
    front_order: Tensor
    back_order: Tensor


def pair_maps(maps: TappedMaps, num_vectors: int, beta: float) -> tuple[PairMaps, ...]:
    """The DFVs of every two neighbouring taps, by the first of k vectors; see `SVDLoss`.

    Args:
        maps: of teacher and student.
        num_vectors: k, of the vectors among which the student's is chosen and weighted.
        beta: width of the radial basis function.

    Returns:
        Those of the neighbours at which both networks have as many channels as each other.
    """
    channels = [tap.shape[-1] for tap in maps.after]
    places = [i for i, tap in enumerate(maps.teacher) if tap.shape[-1] == channels[i]]
    taps = {i: _TeacherTap.of(maps.teacher[i], num_vectors) for i in places}

    def firsts(tapped: tuple[Tensor, ...]) -> dict[int, Tensor]:
        return {i: tap.first_of(tapped[i], num_vectors) for i, tap in taps.items() if tapped}

    teacher, before, after = (
        {i: tap.first() for i, tap in taps.items()},
        firsts(maps.before),
        firsts(maps.after),
    )

    def mean(vectors: Mapping[int, Tensor], front: int, back: int) -> Tensor:
        parts = (vectors[place].split(IMAGES_AT_ONCE) for place in (front, back))
        sums = [dfv(one, other, beta).sum(0) for one, other in zip(*parts, strict=True)]
        return torch.stack(sums).sum(0).squeeze(-1) / len(vectors[front])

    return tuple(
        PairMaps(
            front=maps.taps[front],
            back=maps.taps[back],
            teacher=mean(teacher, front, back),
            before=mean(before, front, back) if before else None,
            after=mean(after, front, back),
            front_order=teacher[front].mean(0).squeeze(-1).argsort(descending=True),
            back_order=teacher[back].mean(0).squeeze(-1).argsort(descending=True),
        )
        for front, back in pairwise(places)
        if back == front + 1
    )


@dataclass(frozen=True)
class _TeacherTap:
    """A teacher's k leading vectors [N, D, k] at a tap, and their weights [N, 1, k]."""

    vectors: Tensor
    weight: Tensor

    @classmethod
    def of(cls, matrices: Tensor, num_vectors: int) -> Self:
        """Decompose maps [N, P, D]."""
        svd = truncated_svd(matrices.double(), min(num_vectors, *matrices.shape[1:]), solver="gram")
        return cls(svd.right_vectors, F.normalize(svd.singular_values, dim=-1)[:, None, :])

    def first(self) -> Tensor:
        """The first weighted vector [N, D, 1]."""
        return (self.weight * self.vectors)[..., :1]

    def first_of(self, matrices: Tensor, num_vectors: int) -> Tensor:
        """A student's, aligned with the teacher's."""
        offered = min(num_vectors + 1, *matrices.shape[1:])
        own = truncated_svd(matrices.double(), offered, solver="gram").right_vectors
        return (self.weight * align(own, self.vectors))[..., :1]
