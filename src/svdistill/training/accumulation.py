"""A training step on a batch that goes through the networks in parts, for less memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.data import UNLABELLED
from svdistill.losses import Knowledge
from svdistill.parallel import BatchPart
from svdistill.training.metrics import StepResult
from svdistill.training.step import Step


class _Part(NamedTuple):
    images: Tensor
    labels: Tensor
    knowledge: Knowledge | None
    place: BatchPart


class AccumulatedStep(Step):
    """Another step, on the parts of each batch one after the other.

    The gradients are those of the whole batch, see `Distiller.accumulate`, but for what batch norm
    and dropout see of it. To count a batch's labels waits for the device.

    Args:
        step: what to do with each part.
        parts: in how many a batch is split, of sizes that differ by one image at most; fewer where
            there are fewer images.
    """

    def __init__(self, step: Step, parts: int) -> None:
        self.step = step
        self.parts = parts

    def parameters(self) -> list[nn.Parameter]:
        """What the step trains."""
        return self.step.parameters()

    def train_mode(self) -> None:
        """Put the trained network in training mode."""
        self.step.train_mode()

    def plan(self, progress: float) -> bool:
        """Which kind the next step is of."""
        return self.step.plan(progress)

    def measure_again(self) -> None:
        """Let nothing follow from the last gradients."""
        self.step.measure_again()

    def state_dict(self) -> dict[str, Any]:
        """What the step carries to the next one."""
        return self.step.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.step.load_state_dict(state)

    def end_epoch(self) -> None:
        """Called after the last step of an epoch."""
        self.step.end_epoch()

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
        part: BatchPart | None = None,
    ) -> StepResult:
        """Fill the gradients for all parts of the batch."""
        results = [
            self.step(own.images, own.labels, progress, own.knowledge, measure, own.place)
            for own in self._split(images, labels, knowledge, part)
        ]
        wholes = [result.whole for result in results if result.whole is not None]
        whole = wholes[0]._replace(right=torch.stack([one.right for one in wholes]).sum())
        transfers = [r.transfer_loss for r in results if r.transfer_loss is not None]
        return StepResult(
            task_loss=torch.stack([result.task_loss for result in results]).sum(),
            transfer_loss=torch.stack(transfers).sum() if transfers else None,
            logits=torch.cat([result.logits for result in results]),
            norms=results[-1].norms,
            whole=whole if part is not None else None,
        )

    def _split(
        self, images: Tensor, labels: Tensor, knowledge: Knowledge | None, part: BatchPart | None
    ) -> Iterator[_Part]:
        """The parts of a batch, or of this process's part of it."""
        if part is None:
            part = BatchPart(len(labels), int((labels != UNLABELLED).sum()), processes=1)
        # As many in every process, which wait for each other in each part.
        count = max(1, min(self.parts, part.images // part.processes))
        starts = [0]
        for chunk in labels.tensor_split(count):
            starts.append(starts[-1] + len(chunk))
        for start, end in pairwise(starts):
            yield _Part(
                images[start:end],
                labels[start:end],
                None if knowledge is None else _rows(knowledge, start, end),
                part._replace(more=end < len(labels)),
            )


def _rows(knowledge: Knowledge, start: int, end: int) -> Knowledge:
    return knowledge.map(lambda tensor: tensor[start:end])
