"""Draw the pictures of docs/how_it_works.md: python docs/pictures/make.py.

Each is one SVG that stands in the page and takes its text colour, to be read on light and dark.
"""

from __future__ import annotations

from pathlib import Path

import torch
from drawn_network import Looked, look
from matplotlib.patches import Rectangle
from shapes import arrow, box, heat

import svdistill as sd
from svdistill.losses.svd import align
from svdistill.losses.transfer import as_matrices
from svdistill.report.figure import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    new_drawing,
    plain,
    to_svg,
)

FOLDER = Path(__file__).parent
VECTORS = 3


def overview(_looked: Looked) -> str:
    """What goes where in a step."""
    drawing = new_drawing(7.4, 3.3)
    axes = drawing.subplots()
    stages = (1.9, 3.5, 5.1)
    for height, name, colour in ((3.2, "teacher", BLUE), (0.5, "student", GREEN)):
        axes.text(0, height, name, ha="center", va="center", fontweight="bold")
        for place, x in enumerate(stages):
            arrow(axes, (x - 1.1, height), (x - 0.5, height), BLACK, "")
            box(axes, (x, height), f"stage {place + 1}", colour)
        arrow(axes, (5.6, height), (6.2, height), BLACK, "")
        box(axes, (6.75, height), "logits", colour)
    for x in stages:
        arrow(axes, (x, 2.9), (x, 2.45), BLUE, "")
        arrow(axes, (x, 0.8), (x, 1.25), GREEN, "")
        box(axes, (x, 2.25), "k vectors", BLUE, size=(1.1, 0.4))
        box(axes, (x, 1.45), "k + 1 vectors", GREEN, size=(1.1, 0.4))
    for x in (2.7, 4.3):
        axes.text(x, 2.25, "DFV", ha="center", va="center", fontsize=8)
        axes.text(x, 1.45, "DFV", ha="center", va="center", fontsize=8)
        arrow(axes, (x, 2.1), (x, 1.6), VERMILION, "")
        arrow(axes, (x, 1.6), (x, 2.1), VERMILION, "")
    axes.text(6.75, 1.85, "transfer loss", ha="center", va="center")
    arrow(axes, (4.5, 1.85), (6.1, 1.85), VERMILION, "")
    axes.text(6.75, -0.1, "task loss: labels", ha="center", va="center", fontsize=9)
    axes.set(xlim=(-0.5, 7.6), ylim=(-0.3, 3.6))
    axes.axis("off")
    alt = (
        "Teacher above, student below, each with three stages and logits. Of each teacher stage k "
        "singular vectors are kept, of each student stage k plus 1. Vectors of consecutive stages "
        "make distillation feature vectors; the student's are compared with the teacher's, which "
        "is the transfer loss. The student's logits are compared with the labels as usual."
    )
    return to_svg(drawing, alt)


def feature_map(looked: Looked) -> str:
    """One stage's map: its channels, the matrix, and the first two singular vectors."""
    maps = looked.teacher[0][0]
    channels, height, width = maps.shape
    matrix = as_matrices(looked.teacher[0])[0]
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    sign = Vh.gather(1, Vh.abs().argmax(1, keepdim=True))[:, 0].sign()
    drawing = new_drawing(7.4, 2.6)
    image, stack, whole, left, right = drawing.subplots(
        1, 5, gridspec_kw={"width_ratios": [1, 1.25, 0.7, 1, 1.25]}
    )
    heat(image, looked.image, "an image", "gray")
    tiles = torch.cat([torch.cat(list(row), 1) for row in maps.reshape(4, 4, height, width)])
    heat(stack, tiles, f"a stage's map:\n{channels} channels\nof {height} x {width}")
    heat(whole, matrix, f"the matrix M:\n{height * width} positions x\n{channels} channels")
    heat(left, (sign[0] * U[:, 0]).reshape(height, width), "$u_1$: where", "RdBu_r")
    for place, colour in ((0, BLUE), (1, ORANGE)):
        at = torch.arange(channels) + 0.4 * place
        label = f"$v_{place + 1}$, s = {float(s[place]):.1f}"
        right.barh(at, sign[place] * Vh[place], height=0.4, color=colour, label=label)
    plain(right)
    right.set_yticks([])
    right.set_ylabel("channel")
    right.set_title("$v_1, v_2$: which\nchannels", fontsize=10)
    drawing.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    alt = (
        f"A digit; the {channels} channels of a stage as small images; the same numbers as a "
        f"matrix of {height * width} rows and {channels} columns; its first left singular vector, "
        "laid out as an image again, shows where the stage responds; its first two right singular "
        "vectors, as bars, show with which channels."
    )
    return to_svg(drawing, alt)


def alignment(looked: Looked) -> str:
    """Cosines of a teacher's k vectors with a student's k + 1, and which are taken."""
    teacher = sd.truncated_svd(as_matrices(looked.teacher[1]), VECTORS).right_vectors
    student = sd.truncated_svd(as_matrices(looked.student[1]), VECTORS + 1).right_vectors
    cosine = (teacher.mT @ student)[0]
    taken = (align(student, teacher).mT @ student)[0].abs().argmax(1)  # as the loss takes them
    drawing = new_drawing(7.4, 2.8)
    axes = drawing.subplots()
    shown = axes.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1)
    for row in range(VECTORS):
        for column in range(VECTORS + 1):
            value = float(cosine[row, column])
            colour = "#ffffff" if abs(value) > 0.6 else "#202020"
            text = f"{value:+.2f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=colour)
        corner = (float(taken[row]) - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=GREEN, linewidth=3))
    axes.set_xticks(range(VECTORS + 1), [f"student {j + 1}" for j in range(VECTORS + 1)])
    axes.set_yticks(range(VECTORS), [f"teacher {i + 1}" for i in range(VECTORS)])
    drawing.colorbar(shown, ax=axes, label="cosine", shrink=0.8)
    alt = (
        f"A table of cosines between {VECTORS} vectors of the teacher and {VECTORS + 1} of the "
        "student. In each row the one of largest magnitude is framed: that student vector is "
        "taken, with its sign turned where the cosine is negative."
    )
    return to_svg(drawing, alt)


def dfv(looked: Looked) -> str:
    """The DFV of the teacher and of the student for one image, and their difference."""
    known = [sd.truncated_svd(as_matrices(map_), 1).right_vectors for map_ in looked.teacher]
    offered = [sd.truncated_svd(as_matrices(map_), 2).right_vectors for map_ in looked.student]
    learnt = [align(student, teacher) for student, teacher in zip(offered, known, strict=True)]
    teacher, student = (sd.dfv(*pair)[0, :, :, 0] for pair in (known, learnt))
    drawing = new_drawing(7.4, 2.0)
    axes = drawing.subplots(1, 3)
    limits = float(min(teacher.min(), student.min())), 1.0
    shown = heat(axes[0], teacher, "teacher", limits=limits)
    heat(axes[1], student, "student", limits=limits)
    drawing.colorbar(shown, ax=axes[:2].tolist(), shrink=0.7)
    apart = heat(axes[2], student - teacher, "student − teacher", "RdBu_r")
    drawing.colorbar(apart, ax=axes[2], shrink=0.7)
    axes[0].set_ylabel("front channel")
    for one in axes:
        one.set_xlabel("back channel")
    alt = (
        "Three heat maps, front channels by back channels: the teacher's distillation feature "
        "vector of one image, the student's, and their difference, whose squared entries the "
        "loss sums."
    )
    return to_svg(drawing, alt)


def clip(_looked: Looked) -> str:
    """Two weight tensors as two axes: one scale keeps a direction, one for each turns it."""
    task, transfer = torch.tensor([1.2, 0.5]), torch.tensor([0.35, 2.2])
    one_scale = transfer * float((0.5 * task.norm() / transfer.norm()).clamp(max=1))
    each = transfer * (0.5 * task / transfer).clamp(max=1)
    drawing = new_drawing(7.4, 3.2)
    pair = drawing.subplots(1, 2, sharey=True)
    titles = ("one scale for all weights", "a scale for each tensor")
    for axes, clipped, title in zip(pair, (one_scale, each), titles, strict=True):
        arrow(axes, (0, 0), transfer, VERMILION, "the transfer's", "--")
        arrow(axes, (0, 0), task, BLUE, "the task's")
        arrow(axes, task, task + clipped, VERMILION, "clipped")
        arrow(axes, (0, 0), task + clipped, BLACK, "")
        plain(axes)
        axes.set(xlim=(0, 2.2), ylim=(0, 2.4), aspect="equal", xlabel="gradient of tensor 1")
        axes.set_title(title, fontsize=10)
    pair[0].set_ylabel("gradient of tensor 2")
    alt = (
        "Gradients as arrows in a plane whose axes are two weight tensors. The transfer's is "
        "longer than the task's and points elsewhere. With one scale its shortened copy keeps its "
        "direction; with a scale for each tensor the copy is turned."
    )
    return to_svg(drawing, alt)


def subspace(looked: Looked) -> str:
    """How far the first vectors of a block are from their place, round by round."""
    matrix = as_matrices(looked.teacher[1])[0].double()
    gram = matrix.mT @ matrix
    exact = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :VECTORS]
    X = torch.linalg.qr(gram @ torch.randn(len(gram), VECTORS + 6, dtype=gram.dtype)).Q
    errors = []
    for _ in range(5):
        values, weights = torch.linalg.eigh(X.mT @ gram @ X)
        X = X @ weights.flip(1)
        cosine = (X[:, :VECTORS] * exact).sum(0)
        errors.append((1 - cosine.square()).clamp_min(1e-16).sqrt())
        image = 2 / values[0] * (gram @ X) - X  # damps all below the block's smallest value
        X = torch.linalg.qr(2 * (2 / values[0] * (gram @ image) - image) - X).Q
    drawing = new_drawing(7.4, 2.4)
    axes = drawing.subplots()
    for place, (colour, marker) in enumerate(zip((BLUE, VERMILION, GREEN), "os^", strict=True)):
        line = [float(error[place]) for error in errors]
        axes.semilogy(line, marker=marker, color=colour, label=f"$v_{place + 1}$")
    plain(axes)
    axes.set(xlabel="round", ylabel="sine of the angle\nto the exact vector")
    axes.set_xticks(range(len(errors)))
    axes.legend(frameon=False)
    alt = (
        "The angle between the vectors of the block and the exact ones, on a logarithmic axis, "
        "falls steeply from round to round, fastest for the first vector."
    )
    return to_svg(drawing, alt)


PICTURES = (overview, feature_map, alignment, dfv, clip, subspace)


def main() -> None:
    """Write every picture beside this script."""
    looked = look()
    for draw in PICTURES:
        (FOLDER / f"{draw.__name__}.svg").write_text(draw(looked) + "\n")


if __name__ == "__main__":
    main()
