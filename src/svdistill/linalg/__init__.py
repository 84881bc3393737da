"""Differentiable truncated SVD: forward solvers, exact backward. Tensors in, tensors out."""

from svdistill.linalg.gradients import GRADIENTS as GRADIENTS
from svdistill.linalg.precision import (
    constant as constant,
    full_precision as full_precision,
    is_accelerator as is_accelerator,
    is_traced as is_traced,
    is_transformed as is_transformed,
    largest_magnitude as largest_magnitude,
    may_branch as may_branch,
    powers_of_two as powers_of_two,
    register_constant as register_constant,
    to_working as to_working,
    uncompiled as uncompiled,
    uncompiled_if_lowered as uncompiled_if_lowered,
    working_dtype as working_dtype,
)
from svdistill.linalg.solvers import (
    SOLVERS as SOLVERS,
    Convergence as Convergence,
    watch_convergence as watch_convergence,
)
from svdistill.linalg.truncated_svd import (
    TruncatedSVD as TruncatedSVD,
    truncated_svd as truncated_svd,
)
