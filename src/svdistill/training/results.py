"""Results that a finished run saves beside its summary: network costs and predictions."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from svdistill.common import Case, RunError, interleave, read_plain, write_text
from svdistill.networks import profile_network
from svdistill.parallel import sum_over

LATENCY_ROUNDS: Final = 20

BINS: Final = 15  # number of confidence bins of equal width

REMEDY: Final = "remove it; the rest of the run does not need it"

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class NetworkFigures:
    """Accuracy and cost of a network.

    Attributes:
        accuracy: percentage of correctly classified test images; None for a teacher whose classes
            are not those of the data.
        parameters: number of parameters.
        flops: number of FLOPs (2 x multiply-adds) for one image.
        bytes: size of weights and buffers in bytes.
        milliseconds: median latency for one image on the CPU, in milliseconds.
    """

    accuracy: float | None
    parameters: int
    flops: int
    bytes: int
    milliseconds: float


@dataclass(frozen=True)
class BeforeAfter:
    """Figures of the teacher, and of the student before and after a distillation.

    Attributes:
        test_images: number of test images, the same for all networks.
        threads: number of torch's threads while the networks were timed.
        teacher: the teacher's figures; None if the run read a knowledge store.
        before, after: the student's figures before and after training.
    """

    test_images: int
    threads: int
    teacher: NetworkFigures | None
    before: NetworkFigures
    after: NetworkFigures

    def rows(self) -> dict[str, NetworkFigures]:
        """A dictionary from each network's name in tables to its figures."""
        named = {
            "teacher": self.teacher,
            "student before": self.before,
            "student after": self.after,
        }
        return {name: figures for name, figures in named.items() if figures is not None}


def measure_before_after(
    teacher: nn.Module | None,
    student: nn.Module,
    image_shape: Sequence[int],
    accuracies: tuple[float | None, float, float],
    test_images: int,
) -> BeforeAfter:
    """Measure the costs of a teacher and its student; their timings on the CPU are interleaved.

    The networks may be on any device and are not changed. `accuracies` are those of the teacher,
    and of the student before and after training; `image_shape` is ``(3, H, W)``.
    """
    networks = [network for network in (teacher, student) if network is not None]
    image = torch.randn(1, *image_shape).contiguous(memory_format=torch.channels_last)
    costs = [_costs(network, image_shape) for network in networks]
    with torch.inference_mode():
        copies = [copy.deepcopy(network).cpu().eval() for network in networks]
        cases = [Case("", partial(network, image)) for network in copies]
        times = [1e3 * timed.median for timed in interleave(cases, LATENCY_ROUNDS)]
    taught, before, after = accuracies
    return BeforeAfter(
        test_images=test_images,
        threads=torch.get_num_threads(),
        teacher=None if teacher is None else NetworkFigures(taught, *costs[0], times[0]),
        before=NetworkFigures(before, *costs[-1], times[-1]),
        after=NetworkFigures(after, *costs[-1], times[-1]),
    )


def _costs(network: nn.Module, image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Number of parameters, FLOPs for one image, and bytes of weights and buffers."""
    profile = profile_network(network, image_shape)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return profile.parameters, profile.flops, size


class Predictions(NamedTuple):
    """True labels, most likely classes, and their softmax probabilities for N images, [N] each."""

    labels: Tensor
    classes: Tensor
    confidences: Tensor


class CalibrationBin(NamedTuple):
    """Totals of the images whose confidence lies in this one of 15 equal bins from 0 to 1.

    Attributes:
        images: number of images in the bin.
        right: how many of these images are classified correctly.
        confidence: the sum of the confidences of these images.
    """

    images: int
    right: int
    confidence: float


@dataclass(frozen=True)
class PredictionSummary:
    """Summary of a network's predictions on the test images, saved by a finished run.

    Attributes:
        class_names: names of the classes, in the order of the logits.
        confusions: label, predicted class and number of images, for each pair that occurs.
        bins: the 15 bins by confidence, which is the largest softmax probability.
        agreement: share of the images, 0 to 1, for which the network and its teacher predict the
            same class; None if no teacher ran or the two saw the images in different orders.
    """

    class_names: tuple[str, ...]
    confusions: tuple[tuple[int, int, int], ...]
    bins: tuple[CalibrationBin, ...]
    agreement: float | None = None

    @property
    def images(self) -> int:
        """Number of test images."""
        return sum(one.images for one in self.bins)

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0 to 1.

        The mean over the images of the difference between accuracy and mean confidence in their
        bin: ``sum_b |right_b - confidence_b| / N``.

        Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
        """
        return sum(abs(one.right - one.confidence) for one in self.bins) / self.images

    def class_accuracies(self) -> dict[str, float]:
        """Percentage of each class's test images that are classified correctly."""
        images, right = ([0] * len(self.class_names) for _ in range(2))
        for label, predicted, count in self.confusions:
            images[label] += count
            right[label] += count if label == predicted else 0
        return {
            name: 100 * right[place] / images[place]
            for place, name in enumerate(self.class_names)
            if images[place]
        }


def summarise_predictions(
    student: Predictions, teacher: Predictions | None, class_names: tuple[str, ...]
) -> PredictionSummary:
    """Summarise predictions over all processes: confusions, calibration bins and agreement.

    Example:
        >>> labels, classes = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
        >>> made = Predictions(labels, classes, torch.tensor([0.9, 0.7, 0.8]))
        >>> summary = summarise_predictions(made, None, ("cat", "dog"))
        >>> summary.confusions, round(summary.calibration_error, 3)
        (((0, 0, 1), (1, 0, 1), (1, 1, 1)), 0.4)
    """
    device, count = student.labels.device, len(class_names)
    labels, classes, confidences = (values.cpu() for values in student)
    right = (labels == classes).double()
    bins = (confidences * BINS).long().clamp(0, BINS - 1)
    taught = student if teacher is None else teacher
    same = classes == taught.classes.cpu()
    moved = labels != taught.labels.cpu()  # the user's own data loader may shuffle
    sums = (
        torch.bincount(labels * count + classes, minlength=count**2).double(),
        torch.bincount(bins, minlength=BINS).double(),
        torch.bincount(bins, right, minlength=BINS),
        torch.bincount(bins, confidences.double(), minlength=BINS),
        torch.stack([same.sum(), moved.sum()]).double(),
    )
    whole = sum_over(torch.cat(sums).to(device)).cpu().split([len(part) for part in sums])
    pairs, images, hits, confident, (agreed, other) = (part.tolist() for part in whole)
    return PredictionSummary(
        class_names,
        tuple((*divmod(pair, count), int(found)) for pair, found in enumerate(pairs) if found),
        tuple(
            CalibrationBin(int(number), int(hit), round(confidence, 6))
            for number, hit, confidence in zip(images, hits, confident, strict=True)
        ),
        None if teacher is None or other else agreed / sum(images),
    )


def write_predictions(path: Path, summary: PredictionSummary) -> None:
    """Write a summary to a file atomically, as one line of JSON."""
    write_text(path, json.dumps(asdict(summary)) + "\n")


def read_before_after(path: str | Path) -> BeforeAfter | None:
    """Read the teacher's and student's figures of a finished run; None if it has none.

    Args:
        path: a run directory.

    Raises:
        RunError: the file of figures is damaged.
    """
    file = Path(path) / "before_after.json"
    return _read(file, BeforeAfter, "a teacher's and a student's figures")


def read_predictions(path: str | Path) -> PredictionSummary | None:
    """Read the summary of a run's predictions on its test images; None if there is none.

    Args:
        path: a run directory.

    Raises:
        RunError: the file of the summary is damaged.
    """
    file, expected = Path(path) / "predictions.json", "the confusions and the calibration of a run"
    summary = _read(file, PredictionSummary, expected)
    if summary is not None:
        classes = range(len(summary.class_names))
        known = all(label in classes and guess in classes for label, guess, _ in summary.confusions)
        if not known or summary.images < 1:
            got = "a class without a name, or no images"
            raise RunError(str(file), expected=expected, got=got, remedy=REMEDY)
    return summary


def _read(file: Path, kind: type[Kept], expected: str) -> Kept | None:
    if not file.exists():
        return None
    return read_plain(file, kind, expected=expected, remedy=REMEDY)
