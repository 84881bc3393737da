"""Differentiable truncated SVD: forward solvers, exact backward. Tensors in, tensors out."""

from svdistill.linalg.precision import full_precision, working_dtype
from svdistill.linalg.truncated_svd import TruncatedSVD, truncated_svd

__all__ = ["TruncatedSVD", "full_precision", "truncated_svd", "working_dtype"]
