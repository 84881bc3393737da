"""Two gradients in, one out: the transfer gradient is clipped against the task's."""

from svdistill.multitask.amortised import AmortisedBackward
from svdistill.multitask.backward import (
    CLIPS,
    GradientNorms,
    clip_scale,
    keep_saved_tensors,
    multitask_backward,
)

__all__ = [
    "CLIPS",
    "AmortisedBackward",
    "GradientNorms",
    "clip_scale",
    "keep_saved_tensors",
    "multitask_backward",
]
