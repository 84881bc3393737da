"""Mixed images: mixup and CutMix, the same for teacher and student.

Sources: Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
"""

from __future__ import annotations

import math
import random
from typing import Final

import torch

from svdistill.common import ArgumentError
from svdistill.config import DistillConfig
from svdistill.training.setup import Losses
from svdistill.training.step import MixedLabels, TrainingBatch

# Parameter of the Beta distribution that shares are drawn from.
ALPHAS: Final = {"mixup": 0.2, "cutmix": 1.0}


def require_mixable(config: DistillConfig, losses: Losses) -> None:
    """Raise `ArgumentError` for a loss that reads one label for each image, beside mixed images."""
    if config.mix is not None and any(loss is not None and loss.needs_labels for loss in losses):
        raise ArgumentError(
            "mix",
            expected="nothing beside a loss that reads labels, since a mixed image has two",
            got=f"{config.mix!r} with {config.loss!r}",
            remedy="leave out --mix, or choose a loss that reads none, such as soft_target",
        )


def mixed(batch: TrainingBatch, kind: str, alpha: float | None, seed: int) -> TrainingBatch:
    """Mix each image of a batch with the one before it, all in the same proportion.

    Args:
        batch: without knowledge, which is of single images.
        kind: `"mixup"`: weighted means of two images; `"cutmix"`: a box of the other image;
            `"both"`: either, with equal probability.
        alpha: the proportion is drawn from Beta(alpha, alpha); None for 0.2 (mixup), 1 (cutmix).
        seed: of kind, proportion and box.

    Returns:
        Mixed images. `labels` are of the image with the larger share, `mixed_in` has the others.

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
    """One side of the box: its middle is anywhere, and what reaches over the border is cut off."""
    middle, half = draw.randrange(side), side * math.sqrt(1 - share) / 2
    return slice(max(round(middle - half), 0), min(round(middle + half), side))
