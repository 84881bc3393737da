"""What is measured: means over an epoch's steps, and accuracy on a split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from svdistill.data import Augmentation, ImageSplit
from svdistill.errors import TrainingError
from svdistill.training.step import StepResult


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in percent and mean cross-entropy on a split of `images` images."""

    accuracy: float
    loss: float
    images: int


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl.

    Losses are means over images, norms are means over steps. Accuracies are percentages.
    `svd_missed` is the share of the SVDs by subspace iteration that fell short of its bound;
    `svd_close` that of the SVDs with a gradient in which values lay so close to each other, or to
    zero, that it was damped. What a stage does not compute, or a split that is not there, is None.
    """

    stage: str
    epoch: int
    learning_rate: float
    task_loss: float
    transfer_loss: float | None
    train_accuracy: float
    dev_accuracy: float | None
    test_accuracy: float
    test_loss: float
    task_norm: float | None
    transfer_norm: float | None
    clipped_norm: float | None
    images_per_second: float
    seconds: float
    svd_missed: float | None = None
    svd_close: float | None = None


class EpochMeter:
    """Running means over one epoch, as sums on the device: to read them is to wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.images = 0
        self.steps = 0
        # Of images: right answers, task loss, transfer loss; of steps: the three norms.
        self.sums = torch.zeros(6, dtype=torch.float64, device=device)
        self.has_transfer = False
        self.has_norms = False

    def update(self, result: StepResult, labels: Tensor) -> None:
        """Count one step."""
        right = (result.logits.argmax(dim=-1) == labels).sum()
        sums = [right.double(), len(labels) * result.task_loss.double()]
        if result.transfer_loss is not None:
            self.has_transfer = True
            sums.append(len(labels) * result.transfer_loss.double())
        if result.norms is not None:
            self.has_norms = True
            sums += [norm.double() for norm in result.norms]
        self.sums[: len(sums)] += torch.stack(sums)
        self.images += len(labels)
        self.steps += 1

    def train_accuracy(self) -> float:
        """Percentage of training images that were classified right so far."""
        return 100 * float(self.sums[0]) / self.images

    def mean_task_loss(self) -> float:
        """Mean cross-entropy so far; not finite from the first step on in which it was not."""
        return float(self.sums[1]) / self.images

    def mean_transfer_loss(self) -> float | None:
        """Mean transfer loss so far, likewise."""
        return float(self.sums[2]) / self.images if self.has_transfer else None

    def mean_norms(self) -> list[float | None]:
        """Mean norms of the task's, the transfer's and the clipped gradient."""
        if not self.has_norms:
            return [None] * 3
        return [norm / self.steps for norm in self.sums[3:].tolist()]

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
    augmentation: Augmentation,
    *,
    num_classes: int,
    device: torch.device,
    batch_size: int = 500,
) -> Evaluation:
    """Accuracy and loss of a network, in eval mode, on whole images without augmentation.

    Args:
        network: maps normalised images [B, 3, H, W] to logits [B, num_classes].
        split: the images.
        augmentation: whose normalisation is used.
        num_classes: of the data.
        device: where the network lies.
        batch_size: changes nothing but speed and memory.

    Returns:
        `Evaluation`; the network keeps its mode.
    """
    # Checking labels and logits would wait for the device at each batch.
    accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False).to(device)
    loss = torch.zeros((), device=device)  # torchmetrics' sum would leave out what is NaN
    was_training = network.training
    network.eval()
    for batch in split.batches(batch_size, device=device, order_seed=None):
        images = augmentation.normalise(batch.images)
        logits = network(images.contiguous(memory_format=torch.channels_last)).float()
        accuracy.update(logits, batch.labels)
        loss += F.cross_entropy(logits, batch.labels, reduction="sum")
    network.train(was_training)
    return Evaluation(100 * float(accuracy.compute()), float(loss) / len(split), len(split))
