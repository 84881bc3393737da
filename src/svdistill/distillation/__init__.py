"""The Distiller: frozen teacher, student, adapters and loss, and the clipped gradient."""

from svdistill.distillation.adapters import Adapters as Adapters
from svdistill.distillation.amortised_clipping import AmortisedBackward as AmortisedBackward
from svdistill.distillation.checks import require_finite_transfer as require_finite_transfer
from svdistill.distillation.distiller import (
    Distiller as Distiller,
    DistillerOutput as DistillerOutput,
)
from svdistill.distillation.frozen_teacher import FrozenTeacher as FrozenTeacher
from svdistill.distillation.gradient_clipping import (
    CLIPS as CLIPS,
    GradientNorms as GradientNorms,
    average_gradients as average_gradients,
    multitask_backward as multitask_backward,
)
