"""The formulas again, written from the paper in float64 and sharing no code with the library.

Slow and literal on purpose: one image, one tap pair, one vector at a time. The tests and
`benchmarks/agreement.py` compare the library with these.

Names of dimensions: B batch, N positions (H*W), D channels, k vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def matrix_with_spectrum(values: Sequence[float], rows: int, columns: int, seed: int = 0) -> Tensor:
    """A random float64 matrix `[rows, columns]` whose singular values are exactly `values`."""
    random = np.random.default_rng(seed)
    kept = len(values)
    left = np.linalg.qr(random.standard_normal((rows, kept)))[0]
    right = np.linalg.qr(random.standard_normal((columns, kept)))[0]
    return torch.from_numpy(left * np.asarray(values, dtype=np.float64) @ right.T)


def separated(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float64 matrix whose singular values lie far apart: evenly from 2 down to 0.5."""
    return matrix_with_spectrum(np.linspace(2.0, 0.5, min(rows, columns)), rows, columns, seed)


def fix_signs(vectors_Dk: Tensor) -> Tensor:
    """Turn every column so that its entry of largest magnitude is positive."""
    largest = vectors_Dk.abs().argmax(dim=-2, keepdim=True)
    return vectors_Dk * vectors_Dk.gather(-2, largest).sign().detach()


def full_svd(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` leading values and right vectors by torch's full SVD, which autograd goes through."""
    _, values, vectors_t = torch.linalg.svd(matrices, full_matrices=False)
    return values[..., :k], fix_signs(vectors_t[..., :k, :].mT)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of the expected tensor, in float64."""
    difference = (actual.detach().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp_min(1e-300))


def central_differences(
    function: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-6
) -> Tensor:
    """The gradient of a scalar function at `point`, one entry at a time."""
    gradient = torch.zeros_like(point)
    for index in np.ndindex(*point.shape):
        offset = torch.zeros_like(point)
        offset[index] = step
        gradient[index] = (function(point + offset) - function(point - offset)) / (2 * step)
    return gradient


def poster_gradient(matrix: Array, vectors_grad: Array, k: int) -> Array:
    """The poster's formula for one matrix `[N, D]` and the gradient `[D, k]` of its vectors."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    v = vt[:k].T
    signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(k)])
    u, s, v = u[:, :k] * signs, s[:k], v * signs
    K = np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            if i != j:
                K[i, j] = 1 / (s[i] ** 2 - s[j] ** 2)
    S = np.diag(s)
    if matrix.shape[0] <= matrix.shape[1]:
        E = vectors_grad @ np.linalg.inv(S)
        diagonal = np.diag(np.diag(E.T @ v))
        return u @ E.T - u @ diagonal @ v.T - 2 * u @ symmetric(K * (S @ v.T @ E)) @ S @ v.T
    return 2 * u @ S @ symmetric(K.T * (v.T @ vectors_grad)) @ v.T


def symmetric(square: Array) -> Array:
    """The symmetric part of a square matrix."""
    return (square + square.T) / 2


def as_matrices(feature: Tensor) -> Array:
    """A tap `[B, D, H, W]`, `[B, N, D]` or `[B, D]` as float64 matrices `[B, N, D]`."""
    array = feature.detach().double().numpy()
    if array.ndim == 4:
        return array.reshape(*array.shape[:2], -1).transpose(0, 2, 1)
    return array if array.ndim == 3 else array[:, None, :]


def svd_features(student: Array, teacher: Array, k: int) -> tuple[Array, Array]:
    """The aligned, weighted vectors `[D, k]` of one image at one tap: student's, teacher's.

    Fewer than `k` where the student's or the teacher's map has fewer.
    The paper leaves the teacher's signs free, but a DFV depends on those of front against back.
    The library fixes them: the entry of largest magnitude is positive.
    """
    _, sigma, vt_teacher = np.linalg.svd(teacher, full_matrices=False)
    for row in vt_teacher:
        row *= np.sign(row[np.abs(row).argmax()])
    candidates = np.linalg.svd(student, full_matrices=False)[2][: min(k + 1, *student.shape)]
    k = min(k, *student.shape, *teacher.shape)
    weights = sigma[:k] / np.linalg.norm(sigma[:k])
    features_student, features_teacher = [], []
    for i in range(k):
        cosines = candidates @ vt_teacher[i]
        j = np.abs(cosines).argmax()
        features_student.append(weights[i] * np.sign(cosines[j]) * candidates[j])
        features_teacher.append(weights[i] * vt_teacher[i])
    return np.stack(features_student, axis=1), np.stack(features_teacher, axis=1)


def explicit_dfv(front: Array, back: Array, beta: float) -> Array:
    """Every entry of the distillation feature vectors `[D_F, D_B, k]` of one image."""
    return np.exp(-((front[:, None, :] - back[None, :, :]) ** 2) / beta)


def svd_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], k: int = 1, beta: float = 8.0
) -> float:
    """The SVD transfer loss: summed over the batch, pairs of taps, and entries of the DFVs."""
    total = 0.0
    for image in range(len(student[0])):
        taps = [
            svd_features(as_matrices(s)[image], as_matrices(t)[image], k)
            for s, t in zip(student, teacher, strict=True)
        ]
        for front, back in pairwise(taps):
            both = min(front[0].shape[1], back[0].shape[1])
            dfv_student = explicit_dfv(front[0][:, :both], back[0][:, :both], beta)
            dfv_teacher = explicit_dfv(front[1][:, :both], back[1][:, :both], beta)
            total += ((dfv_student - dfv_teacher) ** 2).sum()
    return float(total)


def pool_to(feature: Array, height: int, width: int) -> Array:
    """Max-pool one image's tap `[D, H, W]` to a size that divides its own."""
    channels, tall, wide = feature.shape
    blocks = feature.reshape(channels, height, tall // height, width, wide // width)
    return blocks.max(axis=(2, 4))


def fsp_matrix(front: Array, back: Array) -> Array:
    """The FSP matrix `[D_F, D_B]` of one image's taps `[D, H, W]`."""
    height = min(front.shape[1], back.shape[1])
    width = min(front.shape[2], back.shape[2])
    front, back = pool_to(front, height, width), pool_to(back, height, width)
    return np.einsum("fhw,bhw->fb", front, back) / (height * width)


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """The FSP loss of taps `[B, D, H, W]`."""
    students = [feature.detach().double().numpy() for feature in student]
    teachers = [feature.detach().double().numpy() for feature in teacher]
    batch, total, entries = len(students[0]), 0.0, 0
    for pair in range(len(students) - 1):
        for image in range(batch):
            gram_student = fsp_matrix(students[pair][image], students[pair + 1][image])
            gram_teacher = fsp_matrix(teachers[pair][image], teachers[pair + 1][image])
            total += 0.5 * ((gram_teacher - gram_student) ** 2).sum() / batch
        entries += gram_student.size
    return float(total / entries)


def average_pooling(grid: tuple[int, int], coarser: tuple[int, int]) -> Array:
    """The matrix that averages the positions of a grid to those of a coarser one."""
    sides = []
    for old, new in zip(grid, coarser, strict=True):
        side = np.zeros((new, old))
        for i in range(new):
            window = slice(i * old // new, -(-(i + 1) * old // new))
            side[i, window] = 1 / len(range(*window.indices(old)))
        sides.append(side)
    return np.kron(sides[0], sides[1])


def on_grid(features: Sequence[Tensor], grid: int) -> list[Tensor]:
    """Maps `[B, D, H, W]` averaged to at most `grid` positions a side, one image at a time."""
    pooled = []
    for feature in features:
        size = tuple(feature.shape[2:])
        coarser = (min(size[0], grid), min(size[1], grid))
        averages = average_pooling((size[0], size[1]), coarser)
        images = [averages @ matrix for matrix in as_matrices(feature)]
        made = np.stack(images).transpose(0, 2, 1).reshape(*feature.shape[:2], *coarser)
        pooled.append(torch.from_numpy(made))
    return pooled


def position_relations(matrix: Array, k: int, pooling: Array | None = None) -> Array:
    """The Gram matrix of one image's positions, cut to rank `k`, pooled, of norm 1 or zero."""
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    relations = u[:, :k] @ np.diag(s[:k] ** 2) @ u[:, :k].T
    if pooling is not None:
        relations = pooling @ relations @ pooling.T
    norm = np.linalg.norm(relations)
    return relations / norm if norm > 0 else relations


def position_svd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], k: int = 4) -> float:
    """The position SVD loss, summed over taps and images; maps `[B, D, H, W]` of any size."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        pool_s = pool_t = None
        if s.shape[2:] != t.shape[2:]:
            coarser = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
            pool_s, pool_t = (average_pooling(tuple(f.shape[2:]), coarser) for f in (s, t))
        for matrix_s, matrix_t in zip(as_matrices(s), as_matrices(t), strict=True):
            first = matrix_s if pool_s is None else pool_s @ matrix_s
            difference = position_relations(first, k) - position_relations(matrix_t, k, pool_t)
            total += (difference**2).sum()
    return float(total)


def position_gram_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """The Gram loss of taps `[B, D, H, W]` on one grid, one entry of a matrix at a time."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for matrices in zip(as_matrices(s), as_matrices(t), strict=True):
            grams = [np.einsum("ic,jc->ij", matrix, matrix) for matrix in matrices]
            first, second = (gram / np.sqrt((gram**2).sum()) for gram in grams)
            total += ((first - second) ** 2).sum()
    return float(total)


def cosine_affinity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """Liu et al.'s pair-wise loss, weighted 10, of taps `[B, D, H, W]` on one grid."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for first, second in zip(as_matrices(s), as_matrices(t), strict=True):
            positions = len(first)
            for i in range(positions):
                for j in range(positions):
                    difference = cosine(first[i], first[j]) - cosine(second[i], second[j])
                    total += 10 * difference**2 / positions**2 / len(s)
    return float(total)


def cosine(first: Array, second: Array) -> float:
    """The cosine between two vectors."""
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def similarity_preserving_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """Tung and Mori's loss, weighted 3000, of taps `[B, ...]`, summed over them."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        rows = []
        for feature in (s, t):
            flat = feature.detach().double().numpy().reshape(len(feature), -1)
            similar = np.array([[float(a @ b) for b in flat] for a in flat])
            rows.append(np.array([row / np.linalg.norm(row) for row in similar]))
        total += 3000 * np.linalg.norm(rows[0] - rows[1]) ** 2 / len(s) ** 2
    return float(total)


def attention_map(feature: Array) -> Array:
    """The mean square over the channels of `[D, H, W]`, with norm 1 over the positions."""
    attention = (feature**2).mean(axis=0).ravel()
    return attention / np.linalg.norm(attention)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """The loss of `examples/custom_loss.py` of taps `[B, D, H, W]`."""
    total = 0.0
    for student_tap, teacher_tap in zip(student, teacher, strict=True):
        features = student_tap.detach().double().numpy(), teacher_tap.detach().double().numpy()
        for front, back in zip(*features, strict=True):
            difference = attention_map(front) - attention_map(back)
            total += (difference**2).mean() / len(student_tap)
    return float(total)


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> float:
    """`T^2 KL(teacher || student)` of logits `[B, C]`, the mean over the batch."""
    total = 0.0
    for student_row, teacher_row in zip(student, teacher, strict=True):
        p = softmax(teacher_row.detach().double().numpy() / temperature)
        q = softmax(student_row.detach().double().numpy() / temperature)
        total += (p * (np.log(p) - np.log(q))).sum()
    return float(temperature**2 * total / len(student))


def decoupled_loss(
    student: Tensor, teacher: Tensor, labels: Sequence[int], alpha: float = 1.0, beta: float = 8.0
) -> float:
    """Zhao et al.'s loss at T = 4 of logits `[B, C]`, from probabilities of each class."""
    total = 0.0
    for student_row, teacher_row, label in zip(student, teacher, labels, strict=True):
        rows = [row.detach().double().numpy() / 4 for row in (teacher_row, student_row)]
        p, q = (softmax(row) for row in rows)
        others = [c for c in range(len(p)) if c != label]
        target = p[label] * np.log(p[label] / q[label])
        target += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        among = [one[others] / one[others].sum() for one in (p, q)]
        nontarget = (among[0] * np.log(among[0] / among[1])).sum()
        total += 16 * (alpha * target + beta * nontarget) / len(student)
    return float(total)


def dist_loss(student: Tensor, teacher: Tensor) -> float:
    """Huang et al.'s loss at T = 4, both weights 2, by numpy's correlation coefficients.

    Rows of the student that vary less than the teacher's, in proportion a, count
    (1 + a^2) / 2 - a r in place of 1 - r.
    """
    p, q = (
        np.array([softmax(row.detach().double().numpy() / 4) for row in rows])
        for rows in (student, teacher)
    )
    total = 0.0
    for first, second in ((p, q), (p.T, q.T)):
        for one, other in zip(first, second, strict=True):
            if len(one) > 1:
                a = min(1.0, _spread(one) / _spread(other))
                r = np.corrcoef(one, other)[0, 1]
                total += 32 * ((1 + a**2) / 2 - a * r) / len(first)
    return float(total)


def _spread(row: Array) -> float:
    return float(row.std() / np.sqrt((row**2).mean()))


def standardised(logits: Tensor) -> Tensor:
    """Each row's logits with mean 0 and a sample's standard deviation of 1."""
    rows = logits.detach().double().numpy()
    return torch.from_numpy(
        (rows - rows.mean(1, keepdims=True)) / rows.std(1, ddof=1, keepdims=True)
    )


def softmax(logits: Array) -> Array:
    """The softmax of one row of logits."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
