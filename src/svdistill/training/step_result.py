"""What a step computed: of a batch, or of one that several processes have parts of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from svdistill.multitask import GradientNorms
from svdistill.parallel import BatchPart, sum_over


class WholeBatch(NamedTuple):
    """Of a batch of which several processes have parts: its images, those with labels, and those
    that were classified right.
    """

    images: int
    labelled: int
    right: Tensor


class StepResult(NamedTuple):
    """What a step computed, detached: scalars and logits [B, C].

    Where several processes have parts of the batch, the losses and norms are of the whole batch,
    and so is `whole`; the logits are of this process's part.
    """

    task_loss: Tensor
    transfer_loss: Tensor | None
    logits: Tensor
    norms: GradientNorms | None
    whole: WholeBatch | None = None


def of_whole_batch(result: StepResult, labels: Tensor, part: BatchPart) -> StepResult:
    """The losses and right answers of all processes' parts, in one small reduction.

    Args:
        result: of this process's part.
        labels: [B], of it.
        part: which it is.

    Returns:
        The same in all processes, but for the logits.
    """
    losses = [result.task_loss, result.transfer_loss]
    right = (result.logits.argmax(dim=-1) == labels).sum()
    if part.stand_in:
        right.zero_()
    numbers = [loss.double() / part.processes for loss in losses if loss is not None]
    *means, right = sum_over(torch.stack([*numbers, right.double()])).unbind()
    task_loss, transfer_loss = (*means, None)[:2]
    assert task_loss is not None
    whole = WholeBatch(part.images, part.labelled, right)
    return result._replace(task_loss=task_loss, transfer_loss=transfer_loss, whole=whole)
