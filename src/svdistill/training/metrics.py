"""What is measured: means over an epoch's steps, and accuracy on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from svdistill.data import Augmentation, ImageSplit
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

    Losses are means over images, norms are means over steps. Accuracies are percentages. What a
    stage does not compute, or a split that is not there, is None.
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


class EpochMeter:
    """Running means over one epoch, on the device: reading them is the only wait."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.accuracy = MulticlassAccuracy(num_classes, average="micro").to(device)
        self.task_loss = MeanMetric().to(device)
        self.transfer_loss = MeanMetric().to(device)
        self.norms = [MeanMetric().to(device) for _ in range(3)]

    def update(self, result: StepResult, labels: Tensor) -> None:
        """Count one step."""
        self.accuracy.update(result.logits, labels)
        self.task_loss.update(result.task_loss, weight=len(labels))
        if result.transfer_loss is not None:
            self.transfer_loss.update(result.transfer_loss, weight=len(labels))
        if result.norms is not None:
            for metric, norm in zip(self.norms, result.norms, strict=True):
                metric.update(norm)

    def train_accuracy(self) -> float:
        """Percentage of training images that were classified right so far."""
        return 100 * float(self.accuracy.compute())

    def mean_task_loss(self) -> float:
        """Mean cross-entropy so far."""
        return float(self.task_loss.compute())

    def mean_transfer_loss(self) -> float | None:
        """Mean transfer loss so far."""
        return _mean(self.transfer_loss)

    def mean_norms(self) -> list[float | None]:
        """Mean norms of the task's, the transfer's and the clipped gradient."""
        return [_mean(metric) for metric in self.norms]


def _mean(metric: MeanMetric) -> float | None:
    return float(metric.compute()) if metric.update_called else None


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
    accuracy = MulticlassAccuracy(num_classes, average="micro").to(device)
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
