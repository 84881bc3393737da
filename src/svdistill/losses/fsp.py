"""Flow of the solution procedure: Gram matrices between consecutive feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import ArgumentError
from svdistill.linalg import full_precision, to_working, uncompiled_if_lowered
from svdistill.losses.finite import require_magnitude
from svdistill.losses.transfer import (
    Knowledge,
    TransferLoss,
    as_matrices,
    require_channels,
    require_match,
    require_taps,
)


@dataclass(frozen=True)
class FSPKnowledge(Knowledge):
    """Per pair of consecutive taps: the teacher's Gram matrix [B, D_F, D_B]."""

    gram_matrices: tuple[Tensor, ...]


class FSPLoss(TransferLoss):
    """Distance of a student's FSP matrices from its teacher's.

    ``G = F_1^T F_2 / (h w)`` of two consecutive maps, the larger max-pooled to the smaller, and::

        loss = sum_pairs mean_images 1/2 ||G_T - G_S||^2 / sum_pairs D_i D_{i+1}

    Raises:
        ArgumentError: in use, for fewer than two taps, channels or images that differ from the
            teacher's, or token sequences of different lengths.
        TrainingError: in use, for maps too large to multiply, from 4e9 on in float32.

    Example:
        >>> maps = [torch.rand(4, 8, 6, 6), torch.rand(4, 16, 3, 3)]
        >>> loss = FSPLoss()
        >>> knowledge = loss.extract(maps, torch.rand(4, 10))
        >>> tuple(knowledge.gram_matrices[0].shape)
        (4, 8, 16)

    Source: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, equations 1 and 3.
    """

    needs_logits = False
    knowledge_type = FSPKnowledge

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> FSPKnowledge:
        """The Gram matrices of consecutive taps."""
        return FSPKnowledge(_gram_matrices(features))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: FSPKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features against a teacher's knowledge."""
        students = _gram_matrices(features)
        teachers = knowledge.gram_matrices
        require_match("number of taps", len(students) + 1, len(teachers) + 1, "tap the same stages")
        distances, elements = [], 0
        for pair, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            images = f"images at tap {pair}"
            require_match(images, len(student), len(teacher), "use one batch for both")
            require_channels(
                f"taps {pair} and {pair + 1}", tuple(student.shape[1:]), tuple(teacher.shape[1:])
            )
            # One pass over the matrices in each direction; they are larger than the maps.
            distances.append(F.mse_loss(student, teacher.to(student.dtype), reduction="sum"))
            elements += student.shape[1] * student.shape[2]
        return torch.stack(distances).sum() / (2 * len(students[0]) * elements)


def _gram_matrices(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    require_taps(features)
    features = [to_working(feature) for feature in features]  # once: most are in two pairs
    # The loss is of fourth order in the maps, and so is what its gradient is made of.
    limit = torch.finfo(features[0].dtype).max ** 0.25
    grams, looked_at = [], None
    for tap, (front, back) in enumerate(pairwise(features)):
        if front.ndim == back.ndim and front.ndim in (4, 5):
            size = tuple(map(min, zip(front.shape[2:], back.shape[2:], strict=True)))
            pooled = _pool(front, size), _pool(back, size)
        else:
            pooled = front, back
        if looked_at is not front:  # else every entry of the front was looked at as a back
            require_magnitude(tap, pooled[0], limit)
        require_magnitude(tap + 1, pooled[1], limit)
        looked_at = back if pooled[1] is back else None
        grams.append(_gram_matrix(as_matrices(pooled[0]), as_matrices(pooled[1]), tap))
    return tuple(grams)


@uncompiled_if_lowered
def _gram_matrix(front: Tensor, back: Tensor, tap: int) -> Tensor:
    if front.shape[1] != back.shape[1]:
        raise ArgumentError(
            f"positions at taps {tap} and {tap + 1}",
            expected="equal numbers, or two maps with height and width",
            got=f"{front.shape[1]} and {back.shape[1]}",
            remedy="tap blocks of one sequence length",
        )
    with full_precision(front.device):
        # The mean over positions, of the map: it has fewer entries than the product.
        return (front / front.shape[1]).mT @ back


def _pool(feature_map: Tensor, size: tuple[int, ...]) -> Tensor:
    if feature_map.shape[2:] == size:
        return feature_map
    if feature_map.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return pool_by_gather(feature_map, size)
    return _max_pool(size)(feature_map, size)


def pool_by_gather(feature_map: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maximum by its place: CUDA's pooling has no deterministic backward pass."""
    _, places = _max_pool(size)(feature_map.detach(), size, return_indices=True)
    return feature_map.flatten(2).gather(2, places.flatten(2)).unflatten(2, size)


def _max_pool(size: tuple[int, ...]) -> Callable[..., Any]:
    return F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
