"""The Distiller: frozen teacher, student, adapters and loss, and the clipped gradient."""

from svdistill.distillation.adapters import Adapters
from svdistill.distillation.amortised_clipping import AmortisedBackward
from svdistill.distillation.arguments import require_module
from svdistill.distillation.checks import require_finite_transfer
from svdistill.distillation.distiller import Distiller, DistillerOutput
from svdistill.distillation.frozen_teacher import FrozenTeacher
from svdistill.distillation.gradient_clipping import (
    CLIPS,
    GradientNorms,
    average_gradients,
    clip_scale,
    keep_saved_tensors,
    multitask_backward,
)

__all__ = [
    "CLIPS",
    "Adapters",
    "AmortisedBackward",
    "Distiller",
    "DistillerOutput",
    "FrozenTeacher",
    "GradientNorms",
    "average_gradients",
    "clip_scale",
    "keep_saved_tensors",
    "multitask_backward",
    "require_finite_transfer",
    "require_module",
]
