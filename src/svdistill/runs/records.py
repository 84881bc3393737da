"""What is recorded of an epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
