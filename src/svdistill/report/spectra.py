"""What distillation did to a student's feature maps: their spectra, and how taps relate.

Shapes: a tap's maps as matrices [N, P, D], positions by channels, of N images; m = min(P, D).
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
from svdistill.linalg.complement import are_close
from svdistill.losses import dfv
from svdistill.losses.svd import align
from svdistill.report.feature_maps import TappedMaps
from svdistill.report.runs import Run

IMAGES_AT_ONCE: Final = 8  # whose DFVs are held in memory


@dataclass(frozen=True)
class Spectrum:
    """Singular values over the largest, [m] each, and how often two of the leading are close.

    Attributes:
        mean: over the images.
        low, high: 10 % and 90 % quantiles over the images.
        close: share of the images in which two of the k + 1 leading values lie so close to each
            other, or the last to zero, that a gradient in float32 is damped.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    close: float


@dataclass(frozen=True)
class TapSpectra:
    """The spectra at a tap of the student, and at the teacher's that it is compared with.

    None are those of networks that are not at hand.
    """

    tap: str
    teacher: Spectrum | None
    before: Spectrum | None
    after: Spectrum


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


@dataclass(frozen=True)
class Analysis:
    """What distillation did to a student's feature maps.

    Attributes:
        run: the student's.
        images: how many test images were looked at.
        num_vectors: k, how many vectors a tap of the teacher passes on.
        spectra: of every tap.
        maps: of every two neighbouring taps at which teacher and student agree in channels.
    """

    run: Run
    images: int
    num_vectors: int
    spectra: tuple[TapSpectra, ...]
    maps: tuple[PairMaps, ...]

    @property
    def title(self) -> str:
        """Which run it is of."""
        return f"{self.run.pair}, {self.run.row}, seed {self.run.summary.seed}"


def analyse(run: Run, maps: TappedMaps) -> Analysis:
    """Compare a student's feature maps, before and after distillation, with its teacher's.

    Args:
        run: the student's.
        maps: its own, as `tapped_maps` returns them.
    """
    k, beta = int(run.config.get("num_vectors", 1)), float(run.config.get("beta", 8.0))

    def spectra(tapped: tuple[Tensor, ...]) -> list[Spectrum | None]:
        return [spectrum_of(matrices, k) for matrices in tapped] or [None] * len(maps.taps)

    after = [spectrum_of(matrices, k) for matrices in maps.after]
    rows = zip(maps.taps, spectra(maps.teacher), spectra(maps.before), after, strict=True)
    return Analysis(
        run,
        len(maps.after[0]),
        k,
        tuple(TapSpectra(*row) for row in rows),
        pair_maps(maps, k, beta),
    )


def spectrum_of(matrices: Tensor, num_vectors: int) -> Spectrum:
    """Singular values over the largest, in float64, and how often two of the leading are close.

    Args:
        matrices: [N, P, D].
        num_vectors: k.

    Example:
        >>> spectrum_of(torch.diag(torch.tensor([4.0, 2.0, 1.0]))[None], num_vectors=1).mean
        tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    matrices = matrices.double()
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.mT
    # Of the Gram matrix: far cheaper, and in float64 right to 1e-8 of the largest value.
    values = torch.linalg.eigvalsh(matrices.mT @ matrices).flip(-1).clamp_min(0).sqrt()
    relative = values / torch.where(values[:, :1] > 0, values[:, :1], 1.0)
    low, high = relative.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=0)
    # A student keeps one more to choose from; training computes gradients in float32.
    close = are_close(relative[:, : num_vectors + 1].square().float())
    return Spectrum(relative.mean(0), low, high, float(close.double().mean()))


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
