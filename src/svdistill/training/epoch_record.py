"""One line of a run's metrics: what an epoch came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from svdistill.training.begun_epoch import BegunEpoch
from svdistill.training.metrics import Evaluation


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl.

    Losses are means over images, norms are means over steps, where a step that does not measure
    counts with the norms last measured. Accuracies are percentages. Images
    without a label count in the transfer loss alone. `svd_missed` is the share of the SVDs by
    subspace iteration that fell short of its bound; `svd_close` that of the SVDs with a gradient in
    which values lay so close to each other, or to zero, that it was damped. `loading_seconds` is
    how long the device that trains waited for images. `skipped_steps` counts those whose gradients
    overflowed in fp16, so that its scaler left the weights as they were; their norms count in no
    mean. What a stage does not compute, or a split that is not there, is None.
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
    loading_seconds: float | None = None
    skipped_steps: int = 0

    def numbers(self) -> dict[str, float]:
        """What a tracker draws over the epochs."""
        return {
            name: value
            for name, value in asdict(self).items()
            if isinstance(value, (int, float)) and name != "epoch"
        }


@dataclass(frozen=True)
class Evaluations:
    """An epoch's network on the test images, and on the held-out ones where there are any."""

    test: Evaluation
    dev: Evaluation | None

    @property
    def chooser(self) -> Evaluation:
        """By which the best epoch is chosen."""
        return self.dev or self.test


def record_epoch(
    stage: str, begun: BegunEpoch, epoch: int, evaluations: Evaluations, trained: float
) -> EpochRecord:
    """What an epoch came to, when its last step is done and its network is evaluated.

    Args:
        stage: the name of its stage.
        begun: what was measured in it. Reading it waits for the device.
        epoch: its number in the run, from 0.
        evaluations: of its network.
        trained: seconds that its steps took.
    """
    meter, watch = begun.meter, begun.watch
    task_norm, transfer_norm, clipped_norm = meter.mean_norms()
    dev = evaluations.dev
    return EpochRecord(
        stage=stage,
        epoch=epoch,
        learning_rate=begun.learning_rate,
        task_loss=meter.mean_task_loss(),
        transfer_loss=meter.mean_transfer_loss(),
        train_accuracy=meter.train_accuracy(),
        dev_accuracy=None if dev is None else dev.accuracy,
        test_accuracy=evaluations.test.accuracy,
        test_loss=evaluations.test.loss,
        task_norm=task_norm,
        transfer_norm=transfer_norm,
        clipped_norm=clipped_norm,
        images_per_second=meter.images / trained,
        seconds=begun.seconds(),
        svd_missed=watch.missed_share(),
        svd_close=watch.close_share(),
        loading_seconds=begun.loading.seconds(),
        skipped_steps=meter.skipped,
    )
