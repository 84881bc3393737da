"""Losses and accuracies of steps and epochs, and the evaluation of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import TrainingError, as_logits
from svdistill.data import UNLABELLED, Augmentation, ImageSplit, NoAugmentation
from svdistill.distillation import GradientNorms
from svdistill.parallel import ALONE, BatchPart, Share, sum_over
from svdistill.training.results import Predictions


class WholeBatch(NamedTuple):
    """Counts over a batch in all processes: images, labelled and correctly classified images."""

    images: int
    labelled: int | Tensor
    right: Tensor


class StepResult(NamedTuple):
    """Losses, logits [B, C] and gradient norms of a step, detached from the graph.

    With several processes, losses, norms and `whole` describe the batch over all processes; the
    logits are those of this process's images.
    """

    task_loss: Tensor
    transfer_loss: Tensor | None
    logits: Tensor
    norms: GradientNorms | None
    whole: WholeBatch | None = None


def of_whole_batch(result: StepResult, labels: Tensor, part: BatchPart) -> StepResult:
    """Reduce losses and the count of correct predictions over the processes.

    The result is equal in all processes, except for the logits.
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
    """Top-1 accuracy in percent, mean cross-entropy and number of images of an evaluation.

    `predictions` holds the predictions for the images that this process evaluated.
    """

    accuracy: float
    loss: float
    images: int
    predictions: Predictions | None = field(default=None, repr=False, compare=False)


class EpochMeter:
    """Running means over an epoch. Reading them synchronises with the device, updating does not."""

    def __init__(self, device: torch.device) -> None:
        self.images = 0
        self.steps = 0
        self.skipped = 0
        # Sums over labelled images: count, correct predictions, task loss; over all images:
        # transfer loss; over steps: three gradient norms, and the count of steps with finite norms.
        self.sums = torch.zeros(8, dtype=torch.float64, device=device)
        self.has_transfer = False
        self.has_norms = False

    def update(self, result: StepResult, labels: Tensor) -> None:
        """Add the results of one step."""
        if result.whole is None:
            images, labelled = len(labels), (labels != UNLABELLED).sum().double()
            right = (result.logits.argmax(dim=-1) == labels).sum()
        else:
            images, right = result.whole.images, result.whole.right
            labelled = right.new_zeros(()) + result.whole.labelled
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
        """Percentage of labelled training images classified correctly so far."""
        return 100 * float(self.sums[1]) / self._labelled()

    def mean_task_loss(self) -> float:
        """Mean cross-entropy so far; not finite if the loss of any step was not finite."""
        return float(self.sums[2]) / self._labelled()

    def mean_transfer_loss(self) -> float | None:
        """Mean transfer loss so far, None without one; not finite if that of any step was not."""
        return float(self.sums[3]) / self.images if self.has_transfer else None

    def mean_norms(self) -> list[float | None]:
        """Mean norms of the task, transfer and clipped gradients; None if never measured."""
        if not self.has_norms:
            return [None] * 3
        *norms, steps = self.sums[4:].tolist()
        return [norm / max(steps, 1.0) for norm in norms]

    def state_dict(self) -> dict[str, Any]:
        """The sums and counts so far; reading them synchronises with the device."""
        return {**vars(self), "sums": self.sums.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        sums = self.sums.copy_(torch.tensor(state["sums"], dtype=self.sums.dtype))
        vars(self).update({**state, "sums": sums})

    def _labelled(self) -> float:
        """Number of labelled images so far, as a divisor: at least 1."""
        return max(float(self.sums[0]), 1.0)

    def require_finite(self, where: str) -> None:
        """Raise `TrainingError` if a loss was not finite in any step so far."""
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


class EvaluationImages(NamedTuple):
    """Images to evaluate on, and the normalisation that the network expects."""

    split: ImageSplit
    augmentation: Augmentation | NoAugmentation


@torch.inference_mode()
def evaluate_network(
    network: nn.Module,
    images: EvaluationImages,
    *,
    device: torch.device,
    batch_size: int = 500,
    each_batch: Callable[[], object] = lambda: None,
    share: Share = ALONE,
) -> Evaluation:
    """Accuracy and loss of a network, in eval mode.

    Args:
        network: maps normalised images [B, 3, H, W] to logits [B, C]; its mode is restored.
        images: to evaluate on, without augmentation.
        device: the network's device.
        batch_size: affects speed and memory only.
        each_batch: called before each batch; may raise an exception to end the evaluation.
        share: which images this process evaluates; accuracy and loss are over all processes.
    """
    # The sums stay on the device until the end, since reading them synchronises with it.
    count, right = 0, torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    found = [Predictions(right.new_empty(0), right.new_empty(0), loss.new_empty(0))]
    was_training = network.training
    network.eval()
    for batch in images.split.batches(batch_size, device=device, order_seed=None, share=share):
        each_batch()
        if batch.part is not None and batch.part.stand_in:
            continue
        views = images.augmentation.normalise(batch.images)
        output = network(views.contiguous(memory_format=torch.channels_last))
        logits = as_logits(output).float()
        classes = logits.argmax(dim=-1)
        right += (classes == batch.labels).sum()
        loss += F.cross_entropy(logits, batch.labels, reduction="sum")
        found.append(Predictions(batch.labels, classes, logits.softmax(dim=-1).amax(dim=-1)))
        count += len(views)
    network.train(was_training)
    predictions = Predictions(*map(torch.cat, zip(*found, strict=True)))
    if share != ALONE:
        counted = sum_over(torch.stack([right.double(), loss.double(), loss.new_full((), count)]))
        right, loss, count = counted[0], counted[1], int(counted[2])
    return Evaluation(100 * int(right) / count, float(loss) / count, count, predictions)
