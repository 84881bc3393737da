"""Differentiable truncated SVD: forward solvers, exact backward. Tensors in, tensors out."""

from svdistill.linalg.constants import constant, register_constant
from svdistill.linalg.convergence import Convergence, watch_convergence
from svdistill.linalg.gradients import GRADIENTS, are_close
from svdistill.linalg.precision import (
    full_precision,
    is_accelerator,
    is_traced,
    is_transformed,
    largest_magnitude,
    may_branch,
    powers_of_two,
    to_working,
    uncompiled,
    uncompiled_if_lowered,
    working_dtype,
)
from svdistill.linalg.solvers import SOLVERS
from svdistill.linalg.truncated_svd import TruncatedSVD, truncated_svd

__all__ = [
    "GRADIENTS",
    "SOLVERS",
    "Convergence",
    "TruncatedSVD",
    "are_close",
    "constant",
    "full_precision",
    "is_accelerator",
    "is_traced",
    "is_transformed",
    "largest_magnitude",
    "may_branch",
    "powers_of_two",
    "register_constant",
    "to_working",
    "truncated_svd",
    "uncompiled",
    "uncompiled_if_lowered",
    "watch_convergence",
    "working_dtype",
]
