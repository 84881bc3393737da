"""A training step that takes a batch in parts, for less memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter

import torch
from torch import Tensor

from svdistill.data import UNLABELLED
from svdistill.linalg import is_accelerator
from svdistill.parallel import BatchPart
from svdistill.training.metrics import StepResult
from svdistill.training.step import MixedLabels, Step, TrainingBatch


class AccumulatedStep:
    """Executes a step on parts of the batch, one after the other.

    The gradients are those of the whole batch, see `Distiller.accumulate`, but batch norm and
    dropout see one part at a time.

    Args:
        step: to execute on each part.
        parts: number of parts; their sizes differ by one image at most. A batch of fewer images
            has fewer parts.
    """

    def __init__(self, step: Step, parts: int) -> None:
        self.step = step
        self.parts = parts

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Fill the gradients for all parts of the batch."""
        results = [self.step(part, progress, measure) for part in self._split(batch)]
        wholes = [result.whole for result in results if result.whole is not None]
        whole = wholes[0]._replace(right=torch.stack([one.right for one in wholes]).sum())
        transfers = [r.transfer_loss for r in results if r.transfer_loss is not None]
        return StepResult(
            task_loss=torch.stack([result.task_loss for result in results]).sum(),
            transfer_loss=torch.stack(transfers).sum() if transfers else None,
            logits=torch.cat([result.logits for result in results]),
            norms=results[-1].norms,
            whole=whole if batch.part is not None else None,
        )

    def _split(self, batch: TrainingBatch) -> Iterator[TrainingBatch]:
        images, labels, knowledge, part, mixed_in = batch
        if part is None:
            labelled = (labels != UNLABELLED).sum()
            known = labelled if is_accelerator(labels.device) else int(labelled)
            part = BatchPart(len(labels), known, processes=1)
        # The same number in every process: they wait for each other in each part.
        count = max(1, min(self.parts, part.images // part.processes))
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
