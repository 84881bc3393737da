"""How closely the library agrees with slow float64 references, as one table of figures.

    python benchmarks/agreement.py

Prints the table and writes `benchmarks/results/agreement.json`. Every error is relative: the norm
of the difference over the norm of the reference, the worst of the batch. The references are those
of the tests, in `tests/helpers/references.py`, which share no code with the library. Ten seconds.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svdistill.linalg import truncated_svd
from svdistill.losses import (
    FSPLoss,
    SoftTargetLoss,
    SumLoss,
    SVDLoss,
    TransferLoss,
    dfv,
    dfv_distance,
)

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))  # the tests use references.py too

import references  # type: ignore[import-not-found]  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "agreement.json"
DTYPES = {"float32": torch.float32, "float64": torch.float64}
BATCH = 8
# Positions by channels: the taps of the VGG networks, and the edges.
SHAPES = [(1024, 64), (256, 128), (64, 256), (16, 512), (64, 64), (1, 512), (256, 1)]


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, on which input, and how far apart it was."""

    subject: str
    case: str
    figures: dict[str, float]


def feature_maps(rows: int, columns: int) -> Tensor:
    """Like a ReLU network's maps: positive, few strong directions, a long tail. [B, N, D]."""
    generator = torch.Generator().manual_seed(rows * columns)
    hidden = torch.randn(BATCH, rows, 8, generator=generator, dtype=torch.float64)
    mixing = torch.randn(BATCH, 8, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(BATCH, rows, columns, generator=generator, dtype=torch.float64)
    return (hidden @ mixing / 3 + 0.5 * noise).relu()


def separated(rows: int, columns: int) -> Tensor:
    """Singular values that lie evenly between 2 and 0.5. [B, N, D]."""
    return torch.stack([references.separated(rows, columns, seed) for seed in range(BATCH)])


def worst_error(actual: Tensor, expected: Tensor) -> float:
    """The largest relative error among the members of a batch."""
    return max(references.relative_error(*pair) for pair in zip(actual, expected, strict=True))


def svd_agreement() -> Iterator[Row]:
    """Values, vectors and gradient against torch's full SVD in float64."""
    for spectrum, make in (("separated", separated), ("feature map", feature_maps)):
        for rows, columns in SHAPES:
            for dtype_name, dtype in DTYPES.items():
                matrices = make(rows, columns).to(dtype)
                for k in sorted({min(k, rows, columns) for k in (1, 2, 5)}):
                    expected = decompose(references.full_svd, matrices.double(), k)
                    for solver in ("subspace", "gram", "svd"):
                        actual = decompose(partial(truncated_svd, solver=solver), matrices, k)
                        case = f"{spectrum} {rows}x{columns} k={k} {dtype_name} {solver}"
                        names = ("values", "vectors", "gradient")
                        errors = map(worst_error, actual, expected)
                        yield Row("truncated_svd", case, dict(zip(names, errors, strict=True)))


def decompose(
    svd: Callable[[Tensor, int], tuple[Tensor, Tensor]], matrices: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, vectors, and the gradient of a random linear function of the vectors."""
    matrices = matrices.clone().requires_grad_()
    values, vectors = svd(matrices, k)
    generator = torch.Generator().manual_seed(k)
    weights = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
    (weights.to(vectors.dtype) * vectors).sum().backward()
    if matrices.grad is None:
        raise RuntimeError("the decomposition passed no gradient")
    return values, vectors, matrices.grad


def poster_cosine() -> Iterator[Row]:
    """How far the poster's formula points from the true gradient, for 256 x 64."""
    steps = np.arange(64)
    spectra = {"values 0.7^i": 0.7**steps, "values 1/i": 1 / (1 + steps)}
    inputs = {
        name: [references.matrix_with_spectrum(values, 256, 64, seed) for seed in range(BATCH)]
        for name, values in spectra.items()
    }
    inputs["feature map"] = list(feature_maps(256, 64))
    generator = torch.Generator().manual_seed(0)
    inputs["white noise"] = list(
        torch.randn(BATCH, 256, 64, generator=generator, dtype=torch.float64)
    )
    for name, matrices in inputs.items():
        for k in (1, 5, 64):
            if name == "values 0.7^i" and k == 64:
                continue  # the last values are lost in rounding, for the reference too
            cosines = [cosine_of(matrix, k) for matrix in matrices]
            yield Row("poster gradient", f"{name} k={k}", {"cosine": float(np.mean(cosines))})


def cosine_of(matrix: Tensor, k: int) -> float:
    """The cosine of the poster's gradient with autograd's through the full SVD."""
    expected = decompose(references.full_svd, matrix, k)[2]
    actual = decompose(partial(truncated_svd, gradient="poster"), matrix, k)[2]
    norms = actual.norm() * expected.norm()
    return float((actual * expected).sum() / norms) if norms > 0 else 0.0


def dfv_agreement() -> Iterator[Row]:
    """The distance at linear cost against the definition in float64."""
    for k in (1, 4):
        generator = torch.Generator().manual_seed(k)
        exact = [
            torch.nn.functional.normalize(
                torch.randn(BATCH, channels, k, generator=generator, dtype=torch.float64), dim=1
            )
            for channels in (128, 256, 128, 256)
        ]
        for beta in (0.05, 0.5, 8.0, 1000.0):
            for dtype_name, dtype in DTYPES.items():
                sides = [side.to(dtype) for side in exact]
                actual = with_gradient(dfv_distance, sides, beta)
                expected = with_gradient(definition, [side.double() for side in sides], beta)
                case = f"128x256 k={k} beta={beta:g} {dtype_name}"
                errors = map(references.relative_error, actual, expected)
                names = ("value", "gradient")
                yield Row("dfv_distance", case, dict(zip(names, errors, strict=True)))


def definition(
    student_front: Tensor,
    student_back: Tensor,
    teacher_front: Tensor,
    teacher_back: Tensor,
    beta: float,
) -> Tensor:
    """The distance with every entry of both DFVs in memory."""
    difference = dfv(student_front, student_back, beta) - dfv(teacher_front, teacher_back, beta)
    return difference.square().sum()


def with_gradient(
    distance: Callable[..., Tensor], sides: list[Tensor], beta: float
) -> tuple[Tensor, Tensor]:
    """The distance, and its gradients in one vector."""
    sides = [side.clone().requires_grad_() for side in sides]
    value = distance(*sides, beta)
    gradients = torch.autograd.grad(value, sides)
    return value.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def loss_agreement() -> Iterator[Row]:
    """Every loss against its formula in numpy, one image and one vector at a time."""
    student, teacher = network(seed=0), network(seed=1)
    for dtype_name, dtype in {**DTYPES, "bfloat16": torch.bfloat16}.items():
        features, logits = [f.to(dtype) for f in student[0]], student[1].to(dtype)
        teacher_features = [f.to(dtype) for f in teacher[0]]
        teacher_logits = teacher[1].to(dtype)
        svd = references.svd_loss(features, teacher_features, 1)
        svd_of_four = references.svd_loss(features, teacher_features, 4)
        fsp = references.fsp_loss(features, teacher_features)
        soft = references.soft_target_loss(logits, teacher_logits)
        table: list[tuple[str, TransferLoss, float]] = [
            ("SVDLoss, k = 1", SVDLoss(), svd),
            ("SVDLoss, k = 4", SVDLoss(4), svd_of_four),
            ("FSPLoss", FSPLoss(), fsp),
            ("SoftTargetLoss", SoftTargetLoss(), soft),
            ("SumLoss", SumLoss([FSPLoss(), SoftTargetLoss()], [2.0, 0.9]), 2 * fsp + 0.9 * soft),
        ]
        for name, loss, expected in table:
            knowledge = loss.extract(teacher_features, teacher_logits)
            actual = float(loss(features, logits, knowledge))
            yield Row(name, f"{dtype_name} input", {"value": abs(actual / expected - 1)})


def network(seed: int) -> tuple[list[Tensor], Tensor]:
    """Four taps [B, D, H, W] as wide as a quarter of VGG's, and logits [B, 100]."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 4, 2)]
    taps = [
        torch.randn(4, *size, generator=generator, dtype=torch.float64).relu() for size in sizes
    ]
    return taps, 3 * torch.randn(4, 100, generator=generator, dtype=torch.float64)


def machine() -> dict[str, str | int]:
    """Where and with what the figures were measured."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Measure, print, write."""
    rows: list[Row] = []
    for measure in (svd_agreement, poster_cosine, dfv_agreement, loss_agreement):
        for row in measure():
            figures = "  ".join(f"{name} {figure:8.1e}" for name, figure in row.figures.items())
            print(f"{row.subject:15}  {row.case:40}  {figures}", flush=True)
            rows.append(row)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} rows written to {RESULTS.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
