"""Feature maps at the taps of teacher, student before and student after, and their analysis.

Shapes: a tap's maps are matrices [N, P, D], positions by channels, of N images; m = min(P, D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import SVDistillError
from svdistill.config import OBJECT
from svdistill.linalg import are_close, truncated_svd
from svdistill.losses import align, as_matrices, dfv
from svdistill.report.networks import Missing, student_after, student_before, trained_teacher
from svdistill.report.runs import Run
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training import load_test_images

IMAGES: Final = 64

BATCH: Final = 16

MEMORY: Final = 5e8  # bytes of maps, which bound the number of images


@dataclass(frozen=True)
class TappedMaps:
    """Maps of the same images in three networks, one matrix [N, P, D] for each tap.

    Attributes:
        taps: paths of the student's taps.
        teacher, before, after: of the teacher, and of the student before and after training; the
            first two are empty if the network is not available.
        missing: a sentence for each network that is not available.
    """

    taps: tuple[str, ...]
    teacher: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    missing: tuple[str, ...] = ()


def tapped_maps(
    run: Run, pairs: TapPairs, teacher: str | Path | None = None, images: int = IMAGES
) -> TappedMaps:
    """Run test images through teacher and student, and record their taps.

    The student's initial weights are drawn again from the run's seed.

    Args:
        run: the student's.
        pairs: the taps, as `run_pairs` returns them.
        teacher: where the teacher is, if the run does not name it or it was moved.
        images: at most this many, the same share of each class.

    Returns:
        The maps, float32.

    Raises:
        Missing: the images cannot be read again, or the student's network cannot be built.
        SVDistillError: damaged weights or images.
    """
    pictures = _test_images(run, images)
    after = student_after(run)
    missing = []

    def try_to(build: Callable[[], nn.Module], who: str) -> nn.Module | None:
        try:
            return build()
        except (Missing, SVDistillError) as reason:
            missing.append(f"The {who} is not shown: {reason}.")
            return None

    before = try_to(lambda: student_before(run), "student before")
    trained = try_to(lambda: _tapped_teacher(run, pairs, teacher), "teacher")
    networks = [(trained, pairs.teacher), (before, pairs.student), (after, pairs.student)]
    tapped = [(network, taps) for network, taps in networks if network is not None]
    each = sum(_bytes(network, taps, pictures[:1]) for network, taps in tapped)
    pictures = pictures[: max(1, int(MEMORY // each))]

    def maps_of(network: nn.Module | None, taps: tuple[str, ...]) -> tuple[Tensor, ...]:
        return () if network is None else _maps(network, taps, pictures)

    return TappedMaps(
        taps=pairs.student,
        teacher=maps_of(trained, pairs.teacher),
        before=maps_of(before, pairs.student),
        after=maps_of(after, pairs.student),
        missing=tuple(missing),
    )


def _tapped_teacher(run: Run, pairs: TapPairs, teacher: str | Path | None) -> nn.Module:
    network = trained_teacher(run, teacher)
    if not pairs.teacher:
        raise Missing(f"what {run.path} tapped of it is not known")
    return network


def _test_images(run: Run, count: int) -> Tensor:
    """Test images as the networks see them, [N, 3, H, W]."""
    data = str(run.config["data"])
    place = data.partition(":")[2]
    if data == OBJECT:
        raise Missing(f"the images of {run.path} were given in Python, and cannot be read again")
    if data.startswith("hub:"):
        raise Missing(
            f"the images of {run.path}, {data}, are on the hub, which a report does not read"
        )
    if place and not Path(place).expanduser().exists():
        raise Missing(f"the images of {run.path}, {data}, are not there")
    split, augmentation = load_test_images(run.path, data, count=count)
    batches = list(split.batches(BATCH, device="cpu", order_seed=None))
    return torch.cat([augmentation.normalise(batch.images) for batch in batches])


@torch.inference_mode()
def _maps(network: nn.Module, taps: tuple[str, ...], images: Tensor) -> tuple[Tensor, ...]:
    tapped = FeatureTaps(network, taps)
    parts = [tapped.run(batch).features for batch in images.split(BATCH)]
    return tuple(as_matrices(torch.cat(maps).float()) for maps in zip(*parts, strict=True))


def _bytes(network: nn.Module, taps: tuple[str, ...], picture: Tensor) -> int:
    """The bytes of the maps of one image."""
    return sum(4 * tap.numel() for tap in _maps(network, taps, picture))


IMAGES_AT_ONCE: Final = 8  # images whose DFVs are in memory


@dataclass(frozen=True)
class PairMaps:
    """Distillation feature vectors of two neighbouring taps, by the first vector of each.

    Means over the images, [D_F, D_B] each; channels are in the networks' order.

    Attributes:
        front, back: paths of the student's taps.
        teacher, before, after: of the teacher, and of the student before training, if that is
            available, and after training.
        front_order, back_order: channels sorted by the teacher's mean vector, largest first.
    """

    front: str
    back: str
    teacher: Tensor
    before: Tensor | None
    after: Tensor
    front_order: Tensor
    back_order: Tensor


def pair_maps(maps: TappedMaps, num_vectors: int, beta: float) -> tuple[PairMaps, ...]:
    """The DFVs of neighbouring taps, of the first of k vectors; see `SVDLoss`.

    Args:
        maps: of teacher and student.
        num_vectors: k, the number of vectors from which the student's is chosen.
        beta: width of the radial basis function.

    Returns:
        Those of the neighbours at which both networks have the same channels.
    """
    channels = [tap.shape[-1] for tap in maps.after]
    places = [i for i, tap in enumerate(maps.teacher) if tap.shape[-1] == channels[i]]
    taps = {i: _TeacherTap.of(maps.teacher[i], num_vectors) for i in places}

    def firsts(tapped: tuple[Tensor, ...]) -> dict[int, Tensor]:
        return {i: tap.first_of(tapped[i], num_vectors) for i, tap in taps.items() if tapped}

    teacher, before, after = (
        {i: tap.first() for i, tap in taps.items()},
        firsts(maps.before),
        firsts(maps.after),
    )

    def mean(vectors: Mapping[int, Tensor], front: int, back: int) -> Tensor:
        parts = (vectors[place].split(IMAGES_AT_ONCE) for place in (front, back))
        sums = [dfv(one, other, beta).sum(0) for one, other in zip(*parts, strict=True)]
        return torch.stack(sums).sum(0).squeeze(-1) / len(vectors[front])

    return tuple(
        PairMaps(
            front=maps.taps[front],
            back=maps.taps[back],
            teacher=mean(teacher, front, back),
            before=mean(before, front, back) if before else None,
            after=mean(after, front, back),
            front_order=teacher[front].mean(0).squeeze(-1).argsort(descending=True),
            back_order=teacher[back].mean(0).squeeze(-1).argsort(descending=True),
        )
        for front, back in pairwise(places)
        if back == front + 1
    )


@dataclass(frozen=True)
class _TeacherTap:
    """A teacher's k leading vectors [N, D, k] at a tap, and their weights [N, 1, k]."""

    vectors: Tensor
    weight: Tensor

    @classmethod
    def of(cls, matrices: Tensor, num_vectors: int) -> Self:
        """Decompose maps [N, P, D]."""
        svd = truncated_svd(matrices.double(), min(num_vectors, *matrices.shape[1:]), solver="gram")
        return cls(svd.right_vectors, F.normalize(svd.singular_values, dim=-1)[:, None, :])

    def first(self) -> Tensor:
        """The first weighted vector [N, D, 1]."""
        return (self.weight * self.vectors)[..., :1]

    def first_of(self, matrices: Tensor, num_vectors: int) -> Tensor:
        """The student's first weighted vector, aligned with the teacher's."""
        offered = min(num_vectors + 1, *matrices.shape[1:])
        own = truncated_svd(matrices.double(), offered, solver="gram").right_vectors
        return (self.weight * align(own, self.vectors))[..., :1]


@dataclass(frozen=True)
class Spectrum:
    """Singular values relative to the largest, [m] each, and how often leading values are close.

    Attributes:
        mean: over the images.
        low, high: 10 % and 90 % quantiles over the images.
        close: share of the images in which two of the k + 1 leading values lie so close to each
            other, or the last to zero, that a gradient in float32 is damped.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    close: float


@dataclass(frozen=True)
class TapSpectra:
    """The spectra at a tap of the student, and at the teacher's tap that it is compared with.

    None if the network is not available.
    """

    tap: str
    teacher: Spectrum | None
    before: Spectrum | None
    after: Spectrum


@dataclass(frozen=True)
class Analysis:
    """The effect of distillation on a student's feature maps.

    Attributes:
        run: the student's.
        images: number of test images.
        num_vectors: k, the number of the teacher's vectors at each tap.
        spectra: of every tap.
        maps: of neighbouring taps at which teacher and student have the same channels.
    """

    run: Run
    images: int
    num_vectors: int
    spectra: tuple[TapSpectra, ...]
    maps: tuple[PairMaps, ...]

    @property
    def title(self) -> str:
        """The run's networks, row and seed."""
        return f"{self.run.pair}, {self.run.row}, seed {self.run.summary.seed}"


def analyse(run: Run, maps: TappedMaps) -> Analysis:
    """Compare a student's feature maps, before and after distillation, with its teacher's.

    Args:
        run: the student's.
        maps: as `tapped_maps` returns them.
    """
    k, beta = int(run.config.get("num_vectors", 1)), float(run.config.get("beta", 8.0))

    def spectra(tapped: tuple[Tensor, ...]) -> list[Spectrum | None]:
        return [spectrum_of(matrices, k) for matrices in tapped] or [None] * len(maps.taps)

    after = [spectrum_of(matrices, k) for matrices in maps.after]
    rows = zip(maps.taps, spectra(maps.teacher), spectra(maps.before), after, strict=True)
    return Analysis(
        run,
        len(maps.after[0]),
        k,
        tuple(TapSpectra(*row) for row in rows),
        pair_maps(maps, k, beta),
    )


def spectrum_of(matrices: Tensor, num_vectors: int) -> Spectrum:
    """Singular values relative to the largest, in float64, and how often leading values are close.

    Args:
        matrices: [N, P, D].
        num_vectors: k.

    Example:
        >>> spectrum_of(torch.diag(torch.tensor([4.0, 2.0, 1.0]))[None], num_vectors=1).mean
        tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    matrices = matrices.double()
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.mT
    # Of the Gram matrix: far cheaper, and in float64 accurate to 1e-8 of the largest value.
    values = torch.linalg.eigvalsh(matrices.mT @ matrices).flip(-1).clamp_min(0).sqrt()
    relative = values / torch.where(values[:, :1] > 0, values[:, :1], 1.0)
    low, high = relative.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=0)
    # A student keeps one more vector; training computes gradients in float32.
    close = are_close(relative[:, : num_vectors + 1].square().float())
    return Spectrum(relative.mean(0), low, high, float(close.double().mean()))
