"""The tapped maps of a distilled run: its teacher's, and its student's as it began and ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from svdistill.errors import SVDistillError
from svdistill.losses.transfer import as_matrices
from svdistill.report.rebuilding import Missing, student_after, student_before, trained_teacher
from svdistill.report.runs import Run
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training.config import OBJECT
from svdistill.training.evaluation_images import load_test_images

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
