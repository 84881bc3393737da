"""Losses and accuracies of an epoch and of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import TrainingError, as_logits
from svdistill.data import UNLABELLED, Augmentation, ImageSplit, NoAugmentation
from svdistill.distillation import GradientNorms
from svdistill.parallel import ALONE, BatchPart, Share, sum_over


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


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in percent and mean cross-entropy on a split of `images` images."""

    accuracy: float
    loss: float
    images: int


class EpochMeter:
    """Running means over one epoch, as sums on the device: to read them is to wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.images = 0
        self.steps = 0
        self.skipped = 0
        # Of labelled images: how many, right answers, task loss; of all: transfer loss; of steps:
        # the three norms, and how many had finite ones.
        self.sums = torch.zeros(8, dtype=torch.float64, device=device)
        self.has_transfer = False
        self.has_norms = False

    def update(self, result: StepResult, labels: Tensor) -> None:
        """Count one step."""
        if result.whole is None:
            images, labelled = len(labels), (labels != UNLABELLED).sum().double()
            right = (result.logits.argmax(dim=-1) == labels).sum()
        else:
            images, right = result.whole.images, result.whole.right
            labelled = right.new_full((), result.whole.labelled)
        sums = [labelled, right.double(), labelled * result.task_loss.double()]
        if result.transfer_loss is not None:
            self.has_transfer = True
            sums.append(images * result.transfer_loss.double())
        if result.norms is not None:
            self.has_norms = True
            norms = torch.stack([norm.double() for norm in result.norms])
            finite = norms.isfinite().all()
            sums += [*torch.where(finite, norms, 0.0), finite.double()]
        self.sums[: len(sums)] += torch.stack(sums)
        self.images += images
        self.steps += 1

    def train_accuracy(self) -> float:
        """Percentage of labelled training images that were classified right so far."""
        return 100 * float(self.sums[1]) / self._labelled()

    def mean_task_loss(self) -> float:
        """Mean cross-entropy so far; not finite from the first step on in which it was not."""
        return float(self.sums[2]) / self._labelled()

    def mean_transfer_loss(self) -> float | None:
        """Mean transfer loss so far, likewise."""
        return float(self.sums[3]) / self.images if self.has_transfer else None

    def mean_norms(self) -> list[float | None]:
        """Mean norms of the task's, the transfer's and the clipped gradient."""
        if not self.has_norms:
            return [None] * 3
        *norms, steps = self.sums[4:].tolist()
        return [norm / max(steps, 1.0) for norm in norms]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far; to read them is to wait for the device."""
        return {
            "images": self.images,
            "steps": self.steps,
            "skipped": self.skipped,
            "sums": self.sums.tolist(),
            "has_transfer": self.has_transfer,
            "has_norms": self.has_norms,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.images, self.steps = state["images"], state["steps"]
        self.skipped = state.get("skipped", 0)
        self.sums.copy_(torch.tensor(state["sums"], dtype=self.sums.dtype))
        self.has_transfer, self.has_norms = state["has_transfer"], state["has_norms"]

    def _labelled(self) -> float:
        """How many labelled images there were so far; 1 for none, to divide by."""
        return max(float(self.sums[0]), 1.0)

    def require_finite(self, where: str) -> None:
        """Raise `TrainingError` if a loss was not finite in some step so far."""
        require_finite("loss", self.mean_task_loss(), where)
        require_finite("transfer_loss", self.mean_transfer_loss() or 0.0, where)


def require_finite(name: str, loss: float, where: str) -> None:
    """Raise `TrainingError` unless a loss is finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            name,
            expected="a finite number",
            got=f"{loss} {where}",
            remedy="lower learning_rate, set max_grad_norm, or use another precision",
        )


@torch.inference_mode()
def evaluate_network(
    network: nn.Module,
    split: ImageSplit,
    augmentation: Augmentation | NoAugmentation,
    *,
    device: torch.device,
    batch_size: int = 500,
    each_batch: Callable[[], object] = lambda: None,
    share: Share = ALONE,
) -> Evaluation:
    """Accuracy and loss of a network, in eval mode, on whole images without augmentation.

    Args:
        network: maps normalised images [B, 3, H, W] to logits [B, C].
        split: the images.
        augmentation: whose normalisation is used.
        device: where the network lies.
        batch_size: changes nothing but speed and memory.
        each_batch: is called before each; what it raises ends the evaluation.
        share: what this process looks at; the result is of all images, in every process.

    Returns:
        `Evaluation`; the network keeps its mode.
    """
    # Sums on the device: to read them at each batch would wait for it.
    images, right = 0, torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    was_training = network.training
    network.eval()
    for batch in split.batches(batch_size, device=device, order_seed=None, share=share):
        each_batch()
        if batch.part is not None and batch.part.stand_in:
            continue
        views = augmentation.normalise(batch.images)
        output = network(views.contiguous(memory_format=torch.channels_last))
        logits = as_logits(output).float()
        right += (logits.argmax(dim=-1) == batch.labels).sum()
        loss += F.cross_entropy(logits, batch.labels, reduction="sum")
        images += len(views)
    network.train(was_training)
    if share != ALONE:
        counted = sum_over(torch.stack([right.double(), loss.double(), loss.new_full((), images)]))
        right, loss, images = counted[0], counted[1], int(counted[2])
    return Evaluation(100 * int(right) / images, float(loss) / images, images)
