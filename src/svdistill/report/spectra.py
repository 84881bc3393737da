"""What distillation did to a student's feature maps: their spectra, and how taps relate.

Shapes: a tap's maps as matrices [N, P, D], positions by channels, of N images; m = min(P, D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.linalg.complement import are_close
from svdistill.report.feature_maps import TappedMaps
from svdistill.report.pair_maps import PairMaps, pair_maps
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
    """The spectra at a tap of the student, and at the teacher's that it is compared with.

    None are those of networks that are not at hand.
    """

    tap: str
    teacher: Spectrum | None
    before: Spectrum | None
    after: Spectrum


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
