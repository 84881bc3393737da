"""The accuracies that the paper printed, in percent, beside which the report puts our own.

All are from Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value
Decomposition", ECCV 2018 (arXiv:1807.06819).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PublishedComparison:
    """A line of the paper's table of networks, or of its table of large data sets.

    Attributes:
        name: of the pair of networks, or of the data set.
        teacher, student: alone.
        fsp: the student taught by FSP; None where the table has no figure.
        proposed: the student taught by the paper's method.
    """

    name: str
    teacher: float
    student: float
    fsp: float | None
    proposed: float


@dataclass(frozen=True)
class PublishedVectors:
    """A curve of the paper's figure on the number of vectors, read from the plot to about 0.1.

    Attributes:
        pair: the networks.
        counts: numbers k of vectors; 0 is the student alone.
        accuracies: one for each.
    """

    pair: str
    counts: tuple[int, ...]
    accuracies: tuple[float, ...]


NETWORKS: Final = (
    PublishedComparison("VGG", 64.44, 61.37, 64.54, 65.05),
    PublishedComparison("MobileNet", 57.85, 56.15, 56.53, 58.15),
    PublishedComparison("ResNeXt", 66.58, 64.00, 63.60, 65.43),
    PublishedComparison("VGG_stride", 64.44, 54.17, None, 61.15),
)

LARGE_DATA: Final = (
    PublishedComparison("Tiny-ImageNet", 53.37, 47.32, 48.77, 51.82),
    PublishedComparison("ImageNet-50", 70.09, 65.03, 69.59, 71.04),
)

# The table on multi-task learning gives VGG both ways. What the table of networks gives for VGG,
# it calls 2-stage.
MULTITASK: Final = {
    "FSP, 1-stage": 64.89,
    "FSP, 2-stage": 64.54,
    "SVD": 65.54,
    "SVD, 2-stage": 65.05,
}

VECTORS: Final = (
    PublishedVectors("VGG", (0, 1, 2, 4, 8, 16), (61.4, 65.1, 66.4, 66.1, 65.4, 65.1)),
    PublishedVectors("VGG_stride", (0, 1, 2, 4, 8, 16), (54.2, 61.2, 61.5, 61.6, 61.8, 62.0)),
)


def published_accuracy(pair: str, row: str) -> float | None:
    """What the paper printed for a row of ours on CIFAR-100.

    The gradient is the paper's own business: rows of the exact one, the poster's and the authors'
    all stand beside the same figure. Of VGG the paper gives 1-stage and 2-stage results. Of the
    other networks it gives one and does not say which it is; since VGG's in that table is the
    2-stage one, theirs are likely 2-stage too. Both rows of ours stand beside it.

    Args:
        pair: as `Run.pair`.
        row: as `Run.row`.

    Returns:
        Percent; None where the paper has no such row.

    Example:
        >>> published_accuracy("VGG", "SVD"), published_accuracy("VGG", "SVD, 2-stage")
        (65.54, 65.05)
        >>> published_accuracy("VGG", "SVD, amortised") is None
        True

    Source: the tables of networks and of multi-task learning.
    """
    if pair == "VGG" and _method(row) in MULTITASK:
        return MULTITASK[_method(row)]
    return _figure(NETWORKS, pair, row)


def published_large_data(data: str, row: str) -> float | None:
    """What the paper printed for a row of ours on a large data set.

    Args:
        data: `"Tiny-ImageNet"` or `"ImageNet-50"`.
        row: as `Run.row`; the paper does not say whether it trained in one stage or in two.

    Returns:
        Percent; None where the paper has no such row.

    Example:
        >>> published_large_data("Tiny-ImageNet", "student alone")
        47.32

    Source: the table of large data sets.
    """
    return _figure(LARGE_DATA, data, row)


def published_vectors(pair: str) -> PublishedVectors | None:
    """What the paper's figure shows for some numbers of vectors; None for networks not in it.

    With one vector it shows what the table of networks gives, so for VGG it is 2-stage.

    Source: the figure on the number of distillation feature vectors.
    """
    return next((curve for curve in VECTORS if curve.pair == pair), None)


def _figure(table: tuple[PublishedComparison, ...], name: str, row: str) -> float | None:
    line = next((line for line in table if line.name == name), None)
    if line is None:
        return None
    rows = {
        "teacher": line.teacher,
        "student alone": line.student,
        "FSP": line.fsp,
        "SVD": line.proposed,
    }
    return rows.get(_method(row).removesuffix(", 1-stage").removesuffix(", 2-stage"))


def _method(row: str) -> str:
    """A row without the gradient that it was trained by."""
    return row.removesuffix(", poster's gradient").removesuffix(", authors' gradient")
