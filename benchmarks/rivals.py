"""Losses of other papers that train modules beside the student, for `--loss rivals:VIDLoss`.

PYTHONPATH=benchmarks svdistill distill --loss rivals:ReviewKDLoss+soft_target ...

Both keep the teacher's maps whole, so that a knowledge store of them is large.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill import Knowledge, TransferLoss
from svdistill.common import ArgumentError
from svdistill.linalg import to_working
from svdistill.losses.position_loss import by_position, on_one_grid
from svdistill.losses.transfer import require_match

FIRST_VARIANCE: Final = 5.0
SMALLEST_VARIANCE: Final = 1e-5
MOST_CHANNELS: Final = 512  # of the fused maps


@dataclass(frozen=True)
class MapsKnowledge(Knowledge):
    """The teacher's map of every tap."""

    maps: tuple[Tensor, ...]


class MapsLoss(TransferLoss):
    """What both losses share: the teacher's maps are the knowledge, and the modules project."""

    needs_logits = False
    compares_channels = False
    trains_modules = True
    knowledge_type = MapsKnowledge

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> MapsKnowledge:
        """The maps."""
        return MapsKnowledge(tuple(to_working(feature.detach()) for feature in features))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: MapsKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features, if it has as many taps and images as its teacher."""
        _require_same(features, knowledge.maps)
        return self.distance(features, knowledge.maps)

    @abc.abstractmethod
    def distance(self, features: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """The loss of a student's features against its teacher's."""


class VIDLoss(MapsLoss):
    """Negative log-likelihood of a teacher's maps given the student's.

    Its negative bounds their mutual information from below, up to the teacher's entropy.

    Per tap, with a regressor ``mu`` of three 1x1 convolutions and a variance per channel::

        loss = sum_taps mean_{images, positions, channels} ((T - mu(S))^2 / v + log v) / 2
        v = softplus(a) + 1e-5,  5 at the start

    The constant ``log(2 pi) / 2`` is left out; the loss may be negative. The paper sums where this
    is a mean, and has a term for the logits too. As in RepDistiller, after the authors' code, the
    hidden layers have the teacher's channels, and no layer has a bias. Where the grids differ, the
    finer map is average-pooled. Tokens and vectors are taken as maps are.

    Raises:
        ArgumentError: in use, for another number of taps or images than the teacher's, or grids
            that cannot be matched.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019.
    """

    def prepare(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """Make a regressor and the variances for every tap."""
        self.regressors = nn.ModuleList(map(_regressor, student_channels, teacher_channels))
        start = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))
        self.variances = nn.ParameterList(torch.full((D_T,), start) for D_T in teacher_channels)

    def distance(self, features: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """The negative log-likelihood of a teacher's maps."""
        terms = []
        for tap, regressor in enumerate(self.regressors):
            grids = map(by_position, (features[tap], taught[tap]))
            student, teacher = on_one_grid(tap, *grids)
            mean = to_working(regressor(student))
            variance = F.softplus(self.variances[tap]) + SMALLEST_VARIANCE
            squares = (teacher.to(mean.dtype) - mean).square()
            terms.append((squares / variance + variance.log()).mean() / 2)
        return torch.stack(terms).sum()


def _regressor(student_channels: int, teacher_channels: int) -> nn.Module:
    """Three 1x1 convolutions, of positions [B, N, D_S] to [B, N, D_T]."""
    hidden = teacher_channels
    return nn.Sequential(
        nn.Linear(student_channels, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, teacher_channels, bias=False),
    )


class ReviewKDLoss(MapsLoss):
    """Distance of a teacher's maps from the student's, each fused with those of its later taps.

    From the last tap to the first, with ``F`` this tap's map fused with what the tap after it has
    fused (`Fusion`), ``C`` a 3x3 convolution with batch norm, and ``pool_l`` the average pool to
    l x l::

        loss = sum_taps (mean D^2 + sum_l w_l mean pool_l(D)^2) / (1 + sum_l w_l),   D = C(F) - T
        l = 4, 2, 1 where that is less than the map's side,   w = 1/2, 1/4, 1/8 in this order

    Maps are fused with as many channels as the student's last tap has, at most 512, as in the
    authors' code. There the loss has a weight for each pair of networks, rises over 20 epochs, and
    also compares the pooled vectors before the classifier; here `transfer_weight`, the clip and
    the taps decide. In a batch in parts, batch norm sees one part.

    Raises:
        ArgumentError: in use, for features that are no maps [B, D, H, W], or another number of taps
            or images than the teacher's.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021.
    """

    def prepare(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """Make the fusion of every tap."""
        width, last = min(student_channels[-1], MOST_CHANNELS), len(student_channels) - 1
        self.fusions = nn.ModuleList(
            Fusion(D_S, width, D_T, fuses=tap < last)
            for tap, (D_S, D_T) in enumerate(zip(student_channels, teacher_channels, strict=True))
        )

    def distance(self, features: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """The distance of a student's fused maps."""
        _require_maps(features)
        _require_maps(taught)
        distances, fused = [], None
        for tap in reversed(range(len(self.fusions))):
            teacher = taught[tap]
            sides = (teacher.shape[2], teacher.shape[3])
            student, fused = self.fusions[tap](to_working(features[tap]), fused, sides)
            student = to_working(student)
            distances.append(context_distance(student - teacher.to(student.dtype)))
        return torch.stack(distances).sum()


class Fusion(nn.Module):
    """A map of one tap, fused with that of the next: a weighted sum with attention per position.

    ``F = w_1 P(S) + w_2 R`` with ``P`` a 1x1 convolution, ``R`` the next tap's ``F`` at the map's
    size, and ``w = sigmoid(conv([P(S), R]))``. A 3x3 convolution of ``F`` gives what is compared.

    Args:
        student_channels: of the map.
        width: channels of the fused map.
        teacher_channels: of the result.
        fuses: whether there is a next tap.
    """

    def __init__(
        self, student_channels: int, width: int, teacher_channels: int, *, fuses: bool
    ) -> None:
        super().__init__()
        self.project = _convolution(student_channels, width, 1)
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuses else None
        self.output = _convolution(width, teacher_channels, 3)

    def forward(
        self, student: Tensor, after: Tensor | None, sides: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """A map [B, D_T, *sides] to compare with the teacher's, and the fused map [B, D, *sides].

        Args:
            student: [B, D_S, H, W].
            after: the next tap's fused map, if there is one.
            sides: height and width of the teacher's map.
        """
        fused: Tensor = self.project(student)
        if self.attention is not None and after is not None:
            after = F.interpolate(after, fused.shape[2:])
            weights = self.attention(torch.cat([fused, after], dim=1)).sigmoid()
            fused = weights[:, :1] * fused + weights[:, 1:] * after
        if fused.shape[2:] != sides:
            fused = F.interpolate(fused, sides)
        return self.output(fused), fused


def _convolution(channels_in: int, channels_out: int, side: int) -> nn.Module:
    """A convolution and batch norm, initialised as the authors do."""
    convolution = nn.Conv2d(channels_in, channels_out, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def context_distance(difference: Tensor) -> Tensor:
    """Weighted mean of the mean squares of a difference of two maps, whole and pooled.

    Args:
        difference: [B, D, H, W]; the difference of pooled maps is its pool.

    Example:
        >>> float(context_distance(torch.full((1, 3, 8, 8), 2.0)))
        4.0
    """
    pools = [
        F.adaptive_avg_pool2d(difference, side) for side in (4, 2, 1) if side < difference.shape[2]
    ]
    weights = [0.5**level for level in range(1 + len(pools))]
    terms = [w * d.square().mean() for w, d in zip(weights, (difference, *pools), strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def _require_same(features: Sequence[Tensor], taught: Sequence[Tensor]) -> None:
    """Raise unless a student has as many taps and images as its teacher."""
    require_match("number of taps", len(features), len(taught), "tap the same stages")
    for student, teacher in zip(features, taught, strict=True):
        require_match("images", len(student), len(teacher), "use one batch for both")


def _require_maps(features: Sequence[Tensor]) -> None:
    """Raise unless all features are maps."""
    for tap, feature in enumerate(features):
        if feature.ndim != 4:
            raise ArgumentError(
                f"tap {tap}",
                expected="maps [B, D, H, W], which ReviewKDLoss convolves",
                got=f"shape {tuple(feature.shape)}",
                remedy="tap modules with such an output, or choose another loss",
            )
