"""What distillation did to a student's feature maps: their spectra, and how taps relate.

Shapes: a tap's maps as matrices [N, P, D], positions by channels, of N images; m = min(P, D).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.linalg import truncated_svd
from svdistill.linalg.complement import are_close
from svdistill.losses import dfv
from svdistill.losses.svd import align
from svdistill.report.feature_maps import IMAGES, TappedMaps, tapped_maps, what_is_missing
from svdistill.report.runs import Run


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
    """The spectra at a tap of the student, and at the teacher's that it is compared with."""

    tap: str
    teacher: Spectrum
    before: Spectrum
    after: Spectrum


@dataclass(frozen=True)
class PairMaps:
    """Distillation feature vectors of two neighbouring taps, by the first vector of each.

    Means over the images, [D_F, D_B] each; channels are in the networks' own order.

    Attributes:
        front, back: paths of the student's taps.
        teacher, before, after: of the teacher, of the student as it began, and as it ended.
        front_order, back_order: the channels by the teacher's mean vector, largest first.
    """

    front: str
    back: str
    teacher: Tensor
    before: Tensor
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
        maps: of every two neighbouring taps; none where teacher and student differ in channels.
    """

    run: Run
    images: int
    num_vectors: int
    spectra: tuple[TapSpectra, ...]
    maps: tuple[PairMaps, ...]


def analyse(run: Run, teacher: str | Path | None = None, images: int = IMAGES) -> Analysis | None:
    """Compare a student's feature maps, before and after distillation, with its teacher's.

    Args:
        run: the student's.
        teacher: its teacher, where the run does not name one, or one that has been moved.
        images: how many test images to look at.

    Returns:
        The analysis; None where weights, teacher or images are missing: `what_is_missing` says
        which.

    Raises:
        SVDistillError: damaged weights or images, or a teacher of other classes.
    """
    if what_is_missing(run, teacher) is not None:
        return None
    k, beta = int(run.config.get("num_vectors", 1)), float(run.config.get("beta", 8.0))
    maps = tapped_maps(run, teacher, images)
    spectra = tuple(
        TapSpectra(tap, *(spectrum_of(matrices, k) for matrices in tapped))
        for tap, *tapped in zip(maps.taps, maps.teacher, maps.before, maps.after, strict=True)
    )
    return Analysis(run, len(maps.after[0]), k, spectra, pair_maps(maps, k, beta))


def spectrum_of(matrices: Tensor, num_vectors: int) -> Spectrum:
    """Singular values over the largest, in float64, and how often two of the leading are close.

    Args:
        matrices: [N, P, D].
        num_vectors: k.

    Example:
        >>> spectrum_of(torch.diag(torch.tensor([4.0, 2.0, 1.0]))[None], num_vectors=1).mean
        tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    values = torch.linalg.svdvals(matrices.double())
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
    """
    tapped = list(zip(maps.teacher, maps.before, maps.after, strict=True))
    if any(teacher.shape[-1] != after.shape[-1] for teacher, _, after in tapped):
        return ()
    vectors = [_first_vectors(*matrices, num_vectors) for matrices in tapped]
    orders = [teacher.mean(0).squeeze(-1).argsort(descending=True) for teacher, _, _ in vectors]
    pairs = []
    for place, neighbours in enumerate(pairwise(vectors)):
        teacher, before, after = (
            dfv(*both, beta).mean(0).squeeze(-1) for both in zip(*neighbours, strict=True)
        )
        front, back = place, place + 1
        names = maps.taps[front], maps.taps[back]
        pairs.append(PairMaps(*names, teacher, before, after, orders[front], orders[back]))
    return tuple(pairs)


def _first_vectors(
    teacher: Tensor, before: Tensor, after: Tensor, num_vectors: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The first weighted vector [N, D, 1] at a tap, of the teacher and the aligned students."""
    svd = truncated_svd(teacher.double(), min(num_vectors, *teacher.shape[1:]), solver="svd")
    weight = F.normalize(svd.singular_values, dim=-1)[:, None, :]

    def of_student(matrices: Tensor) -> Tensor:
        offered = min(num_vectors + 1, *matrices.shape[1:])
        own = truncated_svd(matrices.double(), offered, solver="svd").right_vectors
        return (weight * align(own, svd.right_vectors))[..., :1]

    taught = (weight * svd.right_vectors)[..., :1]
    return taught, of_student(before), of_student(after)
