"""Differentiable truncated SVD: forward solvers, exact backward. Tensors in, tensors out."""

from svdistill.linalg.branching import may_branch, rehearsal
from svdistill.linalg.convergence import Convergence, watch_convergence
from svdistill.linalg.precision import (
    full_precision,
    powers_of_two,
    to_working,
    uncompiled_if_lowered,
    working_dtype,
)
from svdistill.linalg.truncated_svd import TruncatedSVD, truncated_svd

__all__ = [
    "Convergence",
    "TruncatedSVD",
    "full_precision",
    "may_branch",
    "powers_of_two",
    "rehearsal",
    "to_working",
    "truncated_svd",
    "uncompiled_if_lowered",
    "watch_convergence",
    "working_dtype",
]
