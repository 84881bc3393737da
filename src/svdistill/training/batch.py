"""Batches of images with labels: mixup and CutMix, division into parts, cross-entropy.

Sources: Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.data import UNLABELLED
from svdistill.linalg import is_accelerator
from svdistill.losses import Knowledge
from svdistill.parallel import BatchPart

# Default parameter of the Beta distribution that the mixing proportion is drawn from.
ALPHAS: Final = {"mixup": 0.2, "cutmix": 1.0}


class MixedLabels(NamedTuple):
    """The second label of each mixed image [B], int64, and its weight [B], at most 1/2."""

    labels: Tensor
    share: Tensor


class TrainingBatch(NamedTuple):
    """The images of a step, with labels and the teacher's knowledge.

    Attributes:
        images: [B, 3, H, W], normalised.
        labels: [B], int64, `UNLABELLED` for images without a label.
        knowledge: the teacher's knowledge of the images if it is read from a store, else None.
        part: how the images count if they are a part of a larger batch, else None.
        mixed_in: the second labels if the images are mixed, else None.
    """

    images: Tensor
    labels: Tensor
    knowledge: Knowledge | None = None
    part: BatchPart | None = None
    mixed_in: MixedLabels | None = None


def mixed(batch: TrainingBatch, kind: str, alpha: float | None, seed: int) -> TrainingBatch:
    """Mix each image of a batch with the one before it, all in the same proportion.

    Args:
        batch: must have no stored knowledge, since that belongs to unmixed images.
        kind: `"mixup"`: weighted mean of two images; `"cutmix"`: a box is pasted from the other
            image; `"both"`: one of the two for the whole batch, with equal probability.
        alpha: the proportion is drawn from Beta(alpha, alpha); None for 0.2 (mixup), 1 (cutmix).
        seed: seed of the random kind, proportion and box.

    Returns:
        The mixed batch. `labels` belong to the image with the larger share, `mixed_in` to the
        other.

    Example:
        >>> batch = TrainingBatch(torch.eye(3).view(3, 1, 1, 3), torch.arange(3))
        >>> both = mixed(batch, "mixup", 1.0, seed=0)
        >>> both.labels.tolist(), both.mixed_in.labels.tolist()
        ([0, 1, 2], [2, 0, 1])
        >>> round(both.mixed_in.share[0].item(), 2)
        0.43
    """
    draw = random.Random(seed)
    if kind == "both":
        kind = draw.choice(tuple(ALPHAS))
    share = draw.betavariate(*[ALPHAS[kind] if alpha is None else alpha] * 2)
    images, others = batch.images, batch.images.roll(1, dims=0)
    if kind == "mixup":
        images = images * share + others * (1 - share)
    else:
        rows, columns = (_cut(draw, side, share) for side in images.shape[2:])
        images = images.clone()
        images[:, :, rows, columns] = others[:, :, rows, columns]
        share = 1 - others[0, 0, rows, columns].numel() / others[0, 0].numel()
    labels, other_labels = batch.labels, batch.labels.roll(1)
    if share < 0.5:
        labels, other_labels, share = other_labels, labels, 1 - share
    shares = torch.full(labels.shape, 1 - share, device=labels.device)
    return batch._replace(images=images, labels=labels, mixed_in=MixedLabels(other_labels, shares))


def _cut(draw: random.Random, side: int, share: float) -> slice:
    """Draw the box's extent along one side of the image; it is cut off at the image's border."""
    middle, half = draw.randrange(side), side * math.sqrt(1 - share) / 2
    return slice(max(round(middle - half), 0), min(round(middle + half), side))


def parts(batch: TrainingBatch, count: int) -> Iterator[TrainingBatch]:
    """Divide a batch into parts whose sizes differ by one image at most.

    If the batch has fewer images than `count`, each part has one image.
    """
    images, labels, knowledge, part, mixed_in = batch
    if part is None:
        labelled = (labels != UNLABELLED).sum()
        known = labelled if is_accelerator(labels.device) else int(labelled)
        part = BatchPart(len(labels), known, processes=1)
    # Every process makes equally many parts, since processes synchronise in each part.
    count = max(1, min(count, part.images // part.processes))
    starts = [0]
    for chunk in labels.tensor_split(count):
        starts.append(starts[-1] + len(chunk))
    for rows in (slice(*bounds) for bounds in pairwise(starts)):
        yield TrainingBatch(
            images[rows],
            labels[rows],
            None if knowledge is None else knowledge.map(itemgetter(rows)),
            part._replace(more=rows.stop < len(labels)),
            None if mixed_in is None else MixedLabels(*(one[rows] for one in mixed_in)),
        )


def batch_cross_entropy(
    logits: Tensor, batch: TrainingBatch, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 if there are none.

    For a part of a batch, the result is scaled so that its mean over the processes is that of the
    whole batch. Both labels of a mixed image count, weighted by their shares.

    Args:
        logits: [B, C].
        batch: provides `labels`, `part` and `mixed_in`.
        label_smoothing: probability that is spread over all classes, at least 0 and below 1.

    Example:
        >>> logits, labels = torch.randn(3, 5), torch.tensor([4, UNLABELLED, 0])
        >>> expected = F.cross_entropy(logits[[0, 2]], labels[[0, 2]])
        >>> torch.equal(batch_cross_entropy(logits, TrainingBatch(None, labels)), expected)
        True
        >>> batch_cross_entropy(logits, TrainingBatch(None, labels.fill_(UNLABELLED)))
        tensor(0.)
    """
    cross_entropy = partial(
        F.cross_entropy, logits, ignore_index=UNLABELLED, label_smoothing=label_smoothing
    )
    labels, mixed_in = batch.labels, batch.mixed_in
    # Not reduction="mean", which gives NaN if no image has a label.
    if mixed_in is None:
        total = cross_entropy(labels, reduction="sum")
    else:
        first = cross_entropy(labels, reduction="none") * (1 - mixed_in.share)
        second = cross_entropy(mixed_in.labels, reduction="none") * mixed_in.share
        total = (first + second).sum()
    if batch.part is not None:
        return total * batch.part.of_labelled()
    return total / (labels != UNLABELLED).sum().clamp(min=1)
