"""Feature maps at the taps, and what pairs of them look like.

Shapes: a tap's maps as matrices [N, P, D], positions by channels, of N images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import SVDistillError
from svdistill.config import OBJECT, DistillConfig
from svdistill.linalg import truncated_svd
from svdistill.losses import align, as_matrices, dfv, is_imported
from svdistill.report.rebuilding import (
    Missing,
    build_teacher,
    card_of,
    student_after,
    student_before,
    trained_teacher,
)
from svdistill.report.runs import Run
from svdistill.report.tables import Cell, Heading, HTMLTable
from svdistill.store import MANIFEST_NAME, read_manifest
from svdistill.taps import FeatureTaps, PairedTap, PairedTaps, Stage, TapPairs
from svdistill.training import (
    NO_TAPS,
    load_test_images,
    own_taps,
    paired_taps,
    taps_of_store,
    whole_loss,
)

IMAGES: Final = 64

BATCH: Final = 16

MEMORY: Final = 5e8  # bytes of maps; of large ones fewer images are looked at


@dataclass(frozen=True)
class TappedMaps:
    """Maps of the same images in three networks, a tap each, as matrices [N, positions, D].

    Attributes:
        taps: paths of the student's taps.
        teacher, before, after: of the teacher, of the student as it began, and as it ended; the
            first two are empty where they are not at hand.
        missing: why, a sentence each.
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

    The student's first weights are drawn again from the run's seed.

    Args:
        run: the student's.
        pairs: as `run_pairs` returns them.
        teacher: as there.
        images: how many at most, the same share of each class.

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
    taught_by = try_to(lambda: _tapped_teacher(run, pairs, teacher), "teacher")
    networks = [(taught_by, pairs.teacher), (before, pairs.student), (after, pairs.student)]
    tapped = [(network, taps) for network, taps in networks if network is not None]
    each = sum(_bytes(network, taps, pictures[:1]) for network, taps in tapped)
    pictures = pictures[: max(1, int(MEMORY // each))]

    def maps_of(network: nn.Module | None, taps: tuple[str, ...]) -> tuple[Tensor, ...]:
        return () if network is None else _maps(network, taps, pictures)

    return TappedMaps(
        taps=pairs.student,
        teacher=maps_of(taught_by, pairs.teacher),
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
        raise Missing(f"the images of {run.path}, {data}, are on the hub, which a report leaves be")
    if place and not Path(place).expanduser().exists():
        raise Missing(f"the images of {run.path}, {data}, are not there")
    split, augmentation = load_test_images(run.path, data, count=count)
    batches = list(split.batches(BATCH, device="cpu", order_seed=None))
    return torch.cat([augmentation.normalise(batch.images) for batch in batches])


@torch.inference_mode()
def _maps(network: nn.Module, taps: tuple[str, ...], pictures: Tensor) -> tuple[Tensor, ...]:
    tapped = FeatureTaps(network, taps)
    parts = [tapped.run(batch).features for batch in pictures.split(BATCH)]
    return tuple(as_matrices(torch.cat(maps).float()) for maps in zip(*parts, strict=True))


def _bytes(network: nn.Module, taps: tuple[str, ...], picture: Tensor) -> int:
    """What the maps of a picture take."""
    return sum(4 * tap.numel() for tap in _maps(network, taps, picture))


IMAGES_AT_ONCE: Final = 8  # whose DFVs are held in memory


@dataclass(frozen=True)
class PairMaps:
    """Distillation feature vectors of two neighbouring taps, by the first vector of each.

    Means over the images, [D_F, D_B] each; channels are in the networks' own order.

    Attributes:
        front, back: paths of the student's taps.
        teacher, before, after: of the teacher, of the student as it began, if that is at hand, and
            as it ended.
        front_order, back_order: the channels by the teacher's mean vector, largest first.
    """

    front: str
    back: str
    teacher: Tensor
    before: Tensor | None
    after: Tensor
    front_order: Tensor
    back_order: Tensor


def pair_maps(maps: TappedMaps, num_vectors: int, beta: float) -> tuple[PairMaps, ...]:
    """The DFVs of every two neighbouring taps, by the first of k vectors; see `SVDLoss`.

    Args:
        maps: of teacher and student.
        num_vectors: k, of the vectors among which the student's is chosen and weighted.
        beta: width of the radial basis function.

    Returns:
        Those of the neighbours at which both networks have as many channels as each other.
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
        """A student's, aligned with the teacher's."""
        offered = min(num_vectors + 1, *matrices.shape[1:])
        own = truncated_svd(matrices.double(), offered, solver="gram").right_vectors
        return (self.weight * align(own, self.vectors))[..., :1]


HEADINGS: Final = ("teacher", "shape", "student", "shape", "adapter", "why these two")


def run_pairs(run: Run, teacher: str | Path | None = None) -> PairedTaps | TapPairs:
    """The taps that a run compared, found as it found them.

    Args:
        run: the student's.
        teacher: its teacher, where the run does not name one, or one that has been moved.

    Returns:
        The pairs. Where no teacher can be built, the student's taps alone if they are known; none
        where the loss reads none.

    Raises:
        Missing: the student cannot be built, or its taps cannot be known.
        SVDistillError: damaged weights, or a missing library.
    """
    config = _config(run)
    student = student_after(run)
    images = torch.zeros(2, 3, *[card_of(run).image_size] * 2)  # nothing but their shape counts
    store = Path(config.knowledge) / MANIFEST_NAME
    if config.knowledge and store.exists():
        return taps_of_store(config, read_manifest(store), student, images)
    alone = own_taps(student, config.student_taps)
    if not whole_loss(config).needs_taps and not alone:
        return NO_TAPS
    try:
        taught_by = build_teacher(run, teacher)
        # A store's taps were not found by pairing, and it is gone.
        if config.knowledge and not own_taps(taught_by, config.teacher_taps):
            raise Missing(f"the knowledge store of {run.path}, {config.knowledge}, is not there")
        return paired_taps(config, taught_by, student, images)
    except Missing:
        if not alone:
            raise
        return TapPairs(tuple(config.teacher_taps), alone)


def chosen_pairs(run: Run) -> TapPairs:
    """The taps that a run's configuration names, if any: no network is needed for these."""
    chosen = (run.config.get("teacher_taps", ()), run.config.get("student_taps", ()))
    return TapPairs(*map(tuple, chosen))


def compares_channels(run: Run) -> bool:
    """Whether any of a run's losses compares a student's channels with its teacher's."""
    return whole_loss(_config(run)).compares_channels


def pairs_table(run: Run, pairs: PairedTaps | TapPairs) -> HTMLTable | None:
    """A row for each pair, with their shapes where these are known; None without any."""
    title = f"Taps of {run.pair}"
    if not isinstance(pairs, PairedTaps):
        known = {name: paths for name, paths in pairs._asdict().items() if paths}
        rows = tuple(tuple(map(Cell, row)) for row in zip(*known.values(), strict=True))
        caption = f"Modules of {' and '.join(known)} that were compared"
        return HTMLTable(title, caption, _headings(*known), rows) if rows else None
    adapted = compares_channels(run) and any(row.needs_adapter for row in pairs.rows)
    left_out = () if adapted else ("adapter",)
    return HTMLTable(
        title=title,
        caption="Stages that were compared, with their outputs' shapes" + _note(pairs, adapted),
        headings=_headings(*(name for name in HEADINGS if name not in left_out)),
        rows=tuple(_row(row, adapted) for row in pairs.rows),
    )


def _config(run: Run) -> DistillConfig:
    """A run's configuration, of whatever version.

    Raises:
        Missing: its loss is of the user's own code, which a report does not run.
    """
    loss = str(run.config["loss"])
    if not is_imported(loss):
        raise Missing(f"the loss of {run.path}, {loss}, is not svdistill's: no other code is run")
    known = {field.name for field in fields(DistillConfig)}
    return DistillConfig(**{name: run.config[name] for name in known & run.config.keys()})


def _headings(*texts: str) -> tuple[Heading, ...]:
    return tuple(Heading(text, numeric=False) for text in texts)


def _note(pairs: PairedTaps, adapted: bool) -> str:
    if adapted:
        return (
            "; adapters bring the student's channels to the teacher's, by a 1x1 projection that "
            "learnt with the student and is no part of it"
        )
    if any(row.needs_adapter for row in pairs.rows):
        return "; the loss compares no channels, so these may differ"
    return ""


def _row(row: PairedTap, adapted: bool) -> tuple[Cell, ...]:
    adapter = f"{row.student.channels} → {row.teacher.channels}" if row.needs_adapter else "none"
    texts = (
        *(row.teacher.path, _shape(row.teacher), row.student.path, _shape(row.student)),
        *([adapter] if adapted else []),
        row.why,
    )
    return tuple(map(Cell, texts))


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))
