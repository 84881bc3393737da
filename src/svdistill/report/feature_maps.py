"""The tapped maps of a distilled run: its teacher's, and its student's as it began and ended."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from svdistill.data import Augmentation, ImageData
from svdistill.losses.transfer import as_matrices
from svdistill.report.runs import Run
from svdistill.taps import FeatureTaps
from svdistill.training.assembly import load_data, new_student, tap_paths
from svdistill.training.config import DistillConfig
from svdistill.training.weights import load_student, load_teacher, read_card, weights_file

IMAGES: Final = 64
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class TappedMaps:
    """Maps of the same images in three networks, a tap each, as matrices [N, positions, D].

    Attributes:
        taps: paths of the student's taps.
        teacher, before, after: of the teacher, of the student as it began, and as it ended.
    """

    taps: tuple[str, ...]
    teacher: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]


def what_is_missing(run: Run, teacher: str | Path | None = None) -> str | None:
    """Say why `tapped_maps` cannot look at a run; None where it can.

    Nothing is downloaded for a report, so images of the hub count as missing.

    Args:
        run: the student's.
        teacher: its teacher, where the run does not name one, or one that has been moved.

    Returns:
        A few words, such as "its weights (student.safetensors)".
    """
    spec = _teacher(run, teacher)
    data, place = str(run.config["data"]), str(run.config["data"]).partition(":")[2]
    if run.weights is None:
        return "its weights (student.safetensors)"
    if not spec:
        return "its teacher, which it read from a knowledge store"
    if Path(spec).exists():
        if not weights_file(Path(spec)).exists():
            return f"the weights of its teacher, {spec}"
    elif ":" not in spec:
        return f"its teacher, {spec}"
    elif not run.config.get("teacher_taps"):
        return f"taps of its teacher, {spec}"
    if data.startswith("hub:") or (place and not Path(place).expanduser().exists()):
        return f"its images, {data}"
    return None


def tapped_maps(run: Run, teacher: str | Path | None = None, images: int = IMAGES) -> TappedMaps:
    """Run test images through teacher and student, and record their taps.

    The student's first weights are drawn again from the run's seed.

    Args:
        run: the student's; `what_is_missing` says None of it.
        teacher: as there.
        images: how many, spread evenly over the test images.

    Returns:
        The maps, float32.

    Raises:
        SVDistillError: damaged weights or images, or a teacher of other classes.
    """
    assert run.weights is not None
    card = read_card(run.weights)
    assert card is not None  # a run wrote it
    known = {field.name for field in fields(DistillConfig)}
    config = DistillConfig(**{name: run.config[name] for name in known & run.config.keys()})
    # Of the training images only their classes matter: one each is enough.
    data = load_data(replace(config, train_size=len(card.class_names), dev_fraction=0.0))
    with torch.random.fork_rng(devices=[]):
        before = new_student(config, data, CPU)
        after = load_student(run.path)
        taught_by = load_teacher(
            _teacher(run, teacher),
            data.num_classes,
            network=config.teacher_network,
            width=config.teacher_width,
        )
    taps = tap_paths("student_taps", before, config.student_taps)
    teacher_taps = tap_paths("teacher_taps", taught_by, config.teacher_taps)
    normalise = Augmentation("none", data.image_shape[-1], card.mean, card.std).normalise
    pictures = normalise(_test_images(data, images))
    return TappedMaps(
        taps,
        _maps(taught_by, teacher_taps, pictures),
        _maps(before, taps, pictures),
        _maps(after, taps, pictures),
    )


def _teacher(run: Run, teacher: str | Path | None) -> str:
    return str(teacher or run.config.get("teacher") or "")


def _test_images(data: ImageData, count: int) -> Tensor:
    """So many test images, uint8 [N, 3, H, W], spread evenly over all of them."""
    batches = data.test.batches(500, device=CPU, order_seed=None)
    images = torch.cat([batch.images for batch in batches])
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


@torch.inference_mode()
def _maps(network: nn.Module, taps: tuple[str, ...], pictures: Tensor) -> tuple[Tensor, ...]:
    recording = FeatureTaps(network.eval(), taps).run(pictures)
    return tuple(as_matrices(feature_map) for feature_map in recording.features)
