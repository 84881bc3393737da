"""A teacher's forward pass at its fastest: up to its last tap, checked against the model."""

from svdistill.frozen_teacher.modes import require_module
from svdistill.frozen_teacher.teacher import FrozenTeacher

__all__ = ["FrozenTeacher", "require_module"]
