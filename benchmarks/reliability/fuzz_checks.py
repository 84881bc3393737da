"""What must hold of a case, whatever it is given."""

from __future__ import annotations

import re
import traceback
import warnings
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
import torch.nn.functional as F
from fuzz_cases import Case, StepCase
from hard_features import ORDINARY
from torch import Tensor

from svdistill.common.errors import SVDistillError
from svdistill.linalg import to_working, truncated_svd, watch_convergence
from svdistill.linalg.solvers import SOLVERS
from svdistill.linalg.subspace import ORTHONORMAL
from svdistill.losses.transfer import as_matrices

SEPARATED = 0.05  # between kept singular values, relative to the first: there is a gradient
DISTINCT = 1e-6  # between any two: the reference divides by it
WORST_GRADIENT = {torch.float32: 0.05, torch.float64: 1e-6}  # of the norm
WORST_NEIGHBOUR = {torch.float32: 1e-3, torch.float64: 1e-8}
LAPACK = 4  # so many times what we promise is what its SVD of equal entries is off by
LARGEST_REFERENCE = 4096  # entries


@dataclass
class Found:
    """What came of a case: `finite`, `error` (clear, with the place), or a failure."""

    outcome: str
    said: str = ""
    decomposed: int = 0
    recomputed: int = 0
    defects: dict[str, float] = field(default_factory=dict)
    gradient_errors: dict[str, float] = field(default_factory=dict)
    neighbour_error: float | None = None


def check(case: Case) -> Found:
    """Everything that must hold of a case of a loss."""
    with patch.dict(SOLVERS, auto=SOLVERS[case.solver]):
        found, gradients = _attempt(case)
        if found.outcome == "finite":
            _check_neighbours(case, found, gradients)
    if not case.broken:
        try:
            _check_decomposition(case, found)
        except Exception as error:
            return Found("crash", _last(error))
    return found


def check_step(case: StepCase) -> Found:
    """Two steps of a distiller: gradients are finite, or an error says what is not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                output = case.distiller(case.images)
                task = F.cross_entropy(output.logits, case.labels)
                case.distiller.zero_grad()
                case.distiller.backward(task, output, progress=case.progress)
    except SVDistillError as error:
        return _refused(error)
    except Exception as error:
        return Found("crash", _last(error))
    weights = case.distiller.trainable_parameters()
    bad = [weight.grad for weight in weights if not _is_finite(weight.grad)]
    return Found("silent", f"{len(bad)} gradients not finite") if bad else Found("finite")


def _attempt(case: Case) -> tuple[Found, list[Tensor]]:
    """Forward and backward of the loss, and the student's gradients."""
    student = [feature.clone().requires_grad_() for feature in case.student]
    logits = case.student_logits.clone().requires_grad_()
    try:
        knowledge = case.loss.extract(case.teacher, case.teacher_logits)
        loss = case.loss(student, logits, knowledge)
        loss.backward()
    except SVDistillError as error:
        return _refused(error), []
    except Exception as error:
        return Found("crash", _last(error)), []
    gradients = [tensor.grad for tensor in (*student, logits) if tensor.grad is not None]
    if not _is_finite(loss) or not all(map(_is_finite, gradients)):
        return Found("silent", f"loss {loss.item()}, and a gradient is not finite"), []
    return Found("finite"), gradients


def _refused(error: SVDistillError) -> Found:
    """An error must say where: at which tap, or in the logits."""
    said = str(error)
    clear = re.search(r"\btaps? |logits|^positions", said) and "; " in said
    return Found("error" if clear else "unclear", said)


def _check_neighbours(case: Case, found: Found, gradients: list[Tensor]) -> None:
    """An ordinary sample has the gradient that it has among copies of itself."""
    if len(set(case.samples)) == 1 or ORDINARY not in case.samples:
        return
    one = case.samples.index(ORDINARY)
    order = [i if kind == ORDINARY else one for i, kind in enumerate(case.samples)]
    other, others = _attempt(case.reordered(order))
    if other.outcome != "finite":
        found.outcome, found.said = "neighbours", f"without them {other.outcome}: {other.said}"
        return
    errors = [
        _relative(mine[one], alone[one]) for mine, alone in zip(gradients, others, strict=True)
    ]
    found.neighbour_error = max(errors)
    worst = max(WORST_NEIGHBOUR[to_working(gradients[0]).dtype], _rounding(case.dtype))
    if found.neighbour_error > worst:
        found.outcome, found.said = "neighbours", f"sample {one} is off by {found.neighbour_error}"


def _check_decomposition(case: Case, found: Found) -> None:
    """Vectors are orthonormal; the gradient agrees with the full SVD's, in double precision."""
    for feature in case.student:
        matrices = to_working(as_matrices(feature))
        k = min(case.vectors, *matrices.shape[1:])
        with watch_convergence("cpu") as watch:
            vectors = truncated_svd(matrices, k, solver=case.solver).right_vectors
        found.decomposed += watch.decomposed
        found.recomputed += int(watch.missed)
        wide = vectors.double()
        defect = float((wide.mT @ wide - torch.eye(k, dtype=wide.dtype)).abs().max())
        name = str(matrices.dtype).removeprefix("torch.")
        found.defects[f"{name}, {case.solver}"] = max(
            found.defects.get(f"{name}, {case.solver}", 0.0), defect
        )
        if not defect <= ORTHONORMAL[matrices.dtype] * (LAPACK if case.solver == "svd" else 1):
            found.outcome, found.said = "not orthonormal", f"off by {defect}"
        one = case.samples.index(ORDINARY) if ORDINARY in case.samples else 0
        error = _gradient_error(matrices[one], k, case.solver)
        if error is not None:
            found.gradient_errors[name] = max(found.gradient_errors.get(name, 0.0), error)
            if not error <= WORST_GRADIENT[matrices.dtype]:
                found.outcome, found.said = "wrong gradient", f"off by {error}"


def _gradient_error(matrix: Tensor, k: int, solver: str) -> float | None:
    """Of the gradient of a function of values and projectors; None where there is no such."""
    wide = matrix.double()
    size = float(torch.linalg.matrix_norm(wide, 2)) if matrix.numel() <= LARGEST_REFERENCE else 0.0
    if not 1e-25 < size < 1e35:
        return None
    reference = (wide / size).requires_grad_()
    _, values, right = torch.linalg.svd(reference, full_matrices=False)
    gaps = -torch.cat([values.detach(), values.new_zeros(1)]).diff()
    if float(gaps.min()) < DISTINCT or float(gaps[:k].min()) < SEPARATED:
        return None
    weights = torch.linspace(-1, 2, wide.shape[1] ** 2, dtype=torch.float64).view(-1, wide.shape[1])

    def function(s: Tensor, V: Tensor) -> Tensor:
        each = torch.arange(1, k + 1, dtype=s.dtype)
        return (s * each).sum() + ((weights.to(s.dtype) @ V) * V * each).sum()

    function(values[:k], right[:k].mT).backward()
    leaf = matrix.clone().requires_grad_()
    svd = truncated_svd(leaf, k, solver=solver)
    function(svd.singular_values / size, svd.right_vectors).backward()
    assert leaf.grad is not None and reference.grad is not None  # noqa: PT018
    return _relative(leaf.grad.double() * size, reference.grad)


def _relative(actual: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(actual.double() - expected.double())
    return float(difference / torch.linalg.vector_norm(expected.double()).clamp_min(1e-300))


def _rounding(dtype: torch.dtype) -> float:
    return 8 * torch.finfo(dtype).eps


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(tensor.isfinite().all())


def _last(error: Exception) -> str:
    return " ".join("".join(traceback.format_exception(error)[-2:]).split())[-400:]
