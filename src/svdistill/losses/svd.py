"""The paper's loss: distances of distillation feature vectors between consecutive taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import require_choice, require_count, require_positive
from svdistill.linalg import (
    GRADIENTS,
    full_precision,
    powers_of_two,
    to_working,
    truncated_svd,
    uncompiled_if_lowered,
)
from svdistill.losses.dfv import dfv_distance
from svdistill.losses.transfer import (
    REDUCTIONS,
    Knowledge,
    TransferLoss,
    as_matrices,
    require_channels,
    require_match,
    require_taps,
)


@dataclass(frozen=True)
class SVDKnowledge(Knowledge):
    """Per tap: the teacher's singular values [B, k] and right singular vectors [B, D, k'].

    A map of N positions and D channels has ``k' = min(k, N, D)`` vectors. The remaining k - k'
    singular values are 0.
    """

    singular_values: tuple[Tensor, ...]
    right_vectors: tuple[Tensor, ...]


class SVDLoss(TransferLoss):
    """Distance of a student's distillation feature vectors from its teacher's.

    Each tapped map is a matrix of positions by channels, with right singular vectors ``v_i``. The
    student's vectors are put in the teacher's order and sign, and those of both networks are
    weighted with the teacher's normalised singular values: ``f_i = sigma_i / ||sigma||_2 v_i``.
    Then, for every two consecutive taps, called front and back::

        loss = sum_{taps, images, m, n, l} (DFV_S[m, n, l] - DFV_T[m, n, l])^2
        DFV[m, n, l] = exp(-(f_front[m, l] - f_back[n, l])^2 / beta)

    A tap keeps k vectors, or ``min(k, N, D)`` of the network's map that has fewer. The norm of
    sigma is over the values that the tap keeps, and ``l`` runs over those that both taps keep.

    Args:
        num_vectors: number k of the teacher's singular vectors per tap. The student's are chosen
            from its k + 1 leading ones, where its map has as many.
        beta: width of the radial basis function.
        gradient: `"exact"`, `"poster"` or `"authors"`, see `truncated_svd`.
        reduction: over images, `"sum"` as in the paper or `"mean"`.

    Raises:
        ArgumentError: at construction for a wrong option; in use for fewer than two taps, for
            numbers of channels or images that differ from the teacher's, or for knowledge that was
            extracted with another k.

    Example:
        >>> loss = SVDLoss(num_vectors=2)
        >>> maps = [torch.rand(4, 8, 6, 6), torch.rand(4, 16, 3, 3)]
        >>> knowledge = loss.extract(maps, torch.rand(4, 10))
        >>> [tuple(vectors.shape) for vectors in knowledge.right_vectors]
        [(4, 8, 2), (4, 16, 2)]
        >>> float(loss(maps, torch.rand(4, 10), knowledge)) < 1e-12
        True

    A DFV depends on the relative sign of the teacher's front and back vectors. The paper leaves it
    open; here it follows from the sign convention of `truncated_svd`.

    Source: Lee, Kim, Song, ECCV 2018, section 3. This implementation differs in the exact gradient,
    in that sign, and in computing the distance without a D_F x D_B tensor (`dfv_distance`).
    """

    needs_logits = False
    knowledge_type = SVDKnowledge

    def __init__(
        self,
        num_vectors: int = 1,
        beta: float = 8.0,
        gradient: str = "exact",
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        require_count("num_vectors", num_vectors)
        require_positive("beta", beta)
        require_choice("gradient", gradient, GRADIENTS)
        require_choice("reduction", reduction, REDUCTIONS)
        self.num_vectors = num_vectors
        self.beta = beta
        self.gradient = gradient
        self.reduction = reduction

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> SVDKnowledge:
        """The singular values and right singular vectors of every tap."""
        require_taps(features)
        values, vectors = [], []
        for feature_map in features:
            matrices = _matrices(feature_map)
            kept = min(self.num_vectors, *matrices.shape[1:])
            svd = truncated_svd(matrices, kept)
            values.append(F.pad(svd.singular_values, (0, self.num_vectors - kept)))
            vectors.append(svd.right_vectors)
        return SVDKnowledge(tuple(values), tuple(vectors))

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether a knowledge contains at least k singular values for each tap."""
        return isinstance(knowledge, SVDKnowledge) and all(
            values.shape[-1] >= self.num_vectors for values in knowledge.singular_values
        )

    def select(self, knowledge: Knowledge) -> SVDKnowledge:
        """The k leading values and vectors of each tap."""
        known: SVDKnowledge = super().select(knowledge)
        return known.map(lambda tensor: tensor[..., : self.num_vectors])

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SVDKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features against a teacher's knowledge."""
        require_taps(features)
        require_match(
            "number of taps", len(features), len(knowledge.right_vectors), "tap the same stages"
        )
        taps = [
            self._weighted(tap, _matrices(feature_map), values, vectors)
            for tap, (feature_map, values, vectors) in enumerate(
                zip(features, knowledge.singular_values, knowledge.right_vectors, strict=True)
            )
        ]
        distances = []
        for (S_F, T_F), (S_B, T_B) in pairwise(taps):
            both = min(T_F.shape[2], T_B.shape[2])
            S_F, S_B, T_F, T_B = (f[..., :both] for f in (S_F, S_B, T_F, T_B))
            distances.append(dfv_distance(S_F, S_B, T_F, T_B, self.beta))
        total = torch.stack(distances).sum()
        return total if self.reduction == "sum" else total / features[0].shape[0]

    def _weighted(
        self, tap: int, matrices: Tensor, sigma_T: Tensor, V_T: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The student's aligned vectors of one tap and the teacher's, both weighted."""
        B, N, D = matrices.shape
        k = self.num_vectors
        require_match("num_vectors", k, sigma_T.shape[1], "`select` cuts richer knowledge")
        require_match(f"images at tap {tap}", B, V_T.shape[0], "use one batch for both")
        require_channels(f"tap {tap}", D, V_T.shape[1])
        V_S = truncated_svd(matrices, min(k + 1, N, D), gradient=self.gradient).right_vectors
        kept = min(V_S.shape[2], V_T.shape[2])
        V_T = V_T[..., :kept].to(V_S.dtype)
        weight = _normalise(sigma_T[:, :kept].to(V_S.dtype))[:, None, :]
        return weight * align(V_S, V_T), weight * V_T

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return (
            f"num_vectors={self.num_vectors}, beta={self.beta}, "
            f"gradient={self.gradient!r}, reduction={self.reduction!r}"
        )


@uncompiled_if_lowered
def align(student: Tensor, teacher: Tensor) -> Tensor:
    """Put a student's singular vectors in its teacher's order and sign.

    Teacher vector i takes student vector ``argmax_j |v_T,i . v_S,j|``, with the sign that makes the
    cosine positive. Two teacher vectors may take the same student vector. No gradient flows through
    the choice.

    Args:
        student: [B, D, k'], the candidates.
        teacher: [B, D, k].

    Returns:
        [B, D, k], the chosen student vectors.

    Example:
        >>> teacher = torch.eye(3)[None, :, :2]
        >>> align(-teacher.flip(-1), teacher).equal(teacher)
        True

    Source: Lee, Kim, Song, ECCV 2018, section 3.2.
    """
    with full_precision(student.device):
        cosine = teacher.detach().mT @ student.detach()
    choice = cosine.abs().argmax(dim=-1)
    sign = torch.where(cosine.gather(-1, choice[..., None]) < 0, -1.0, 1.0).to(student.dtype)
    index = choice[:, None, :].expand(-1, student.shape[1], -1)
    return student.gather(-1, index) * sign.mT


def _matrices(feature_map: Tensor) -> Tensor:
    return to_working(as_matrices(feature_map))


def _normalise(singular_values: Tensor) -> Tensor:
    """Divide each image's singular values by their norm; all-zero values stay zero."""
    largest = singular_values.amax(dim=-1, keepdim=True)
    # Scaled first: squares of values above 1e19 or below 1e-19 would leave float32's range.
    singular_values = singular_values / powers_of_two(torch.where(largest > 0, largest, 1.0))
    norm = torch.linalg.vector_norm(singular_values, dim=-1, keepdim=True)
    return singular_values / torch.where(norm > 0, norm, 1.0)
