"""Load the images of a run, and choose their size and normalisation.

Size and normalisation are taken from the first of these sources that exists:

1. the option `image_size` (size only);
2. the knowledge store, or the images that the teacher was trained on;
3. the images that the network's initial weights were trained on;
4. the data itself. If its images differ in size or are not square, and the network comes from a
   model library, the images get the size of that network.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Final, NamedTuple

from svdistill.common import ArgumentError, few_classes
from svdistill.config import (
    OBJECT,
    PRETRAINED,
    DataConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
)
from svdistill.data import ImageData, LoadingWatch, load_images
from svdistill.losses import reads_logits
from svdistill.networks import InputSpec, input_spec, is_zoo
from svdistill.runs import read_card, weights_file
from svdistill.store import KnowledgeStore
from svdistill.training.progress import Reporter
from svdistill.training.teacher import require_known_classes

OWN: Final = "the data's own"

# Options that are passed to `load_images`, and so have no effect on images given as an object.
READING: Final = tuple(
    field.name
    for field in fields(DataConfig)
    if field.name not in ("output", "data", "augmentation")
)


class _TrainedInputs(NamedTuple):
    """Size and normalisation that a trained network expects, and where they come from, in words."""

    spec: InputSpec
    whose: str


class _Watch(LoadingWatch):
    """Shows the progress of reading images; checks the teacher's classes before reading starts."""

    def __init__(self, config: DataConfig, reporter: Reporter) -> None:
        self.config, self.reporter = config, reporter

    def classes(self, names: tuple[str, ...]) -> None:
        if isinstance(self.config, TeacherConfig) and reads_logits(self.config.loss):
            require_known_classes(self.config, names)

    def image(self, number: int, total: int) -> None:
        self.reporter.reading(number, total)


def run_images(config: DataConfig, reporter: Reporter, given: ImageData | None = None) -> ImageData:
    """Load the images of a run, as described above, and report the chosen size and its source.

    Images passed as `given` keep their size and, if they are prepared, their normalisation.

    Raises:
        SVDistillError: the images, the teacher, the weights or the store cannot be read.
    """
    trained = _trained(config)
    if isinstance(config, TrainConfig):
        input_spec(config.network)  # raises for an unknown name before images are read
    if given is not None:
        _require_unread(config)
        data, sized = given, "as given"
    else:
        with reporter:
            data, sized = _load(config, trained, _Watch(config, reporter))
    side = "x".join(map(str, data.image_shape[1:]))
    reporter.message(f"{config.data}: {_counts(data)}")
    if data.prepared:
        reporter.message(f"images {side}, prepared as given")
        return data
    if trained is not None:
        data = replace(data, mean=trained.spec.mean, std=trained.spec.std)
    normalised = OWN if trained is None else trained.whose
    reporter.message(
        f"images {side}{'' if sized == normalised else f' ({sized})'}, "
        f"mean {_digits(data.mean)}, std {_digits(data.std)} ({normalised})"
    )
    return data


def load_data(
    config: DataConfig, fallback_size: int | None = None, watch: LoadingWatch | None = None
) -> ImageData:
    """Load the images that a configuration names, regardless of its networks; see `load_images`."""
    options = {name: getattr(config, name) for name in READING}
    options = {name: None if value == "" else value for name, value in options.items()}
    # Not the run's seed, so that all runs hold out the same images.
    return load_images(config.data, fallback_size=fallback_size, seed=0, watch=watch, **options)


def trained_image_size(config: DataConfig) -> int | None:
    """Side of the images that a run's trained networks or store expect; None if unknown."""
    trained = _trained(config)
    return None if trained is None else trained.spec.image_size


def _trained(config: DataConfig) -> _TrainedInputs | None:
    """Size and normalisation that the store, the teacher, or else the initial weights expect."""
    if isinstance(config, DistillConfig) and config.knowledge:
        known = KnowledgeStore(config.knowledge).manifest
        return _TrainedInputs(
            InputSpec(known.image_size, known.mean, known.std), f"{config.knowledge}'s"
        )
    trained = None
    if isinstance(config, TeacherConfig):
        if config.teacher != OBJECT and Path(config.teacher).exists():
            trained = _said_of(config.teacher, config.teacher_network)
        else:
            trained = _said_of(config.teacher_weights, config.teacher)
    if trained is None and isinstance(config, TrainConfig) and config.weights:
        trained = _said_of(config.weights, config.network)
    return trained


def _said_of(weights: str, network: str | None) -> _TrainedInputs | None:
    """Size and normalisation from the card of a weights file, or from the network's library."""
    file = weights_file(Path(weights))
    if weights not in ("", PRETRAINED) and file.suffix == ".safetensors":
        card = read_card(file)
        if card is not None:
            return _TrainedInputs(InputSpec(card.image_size, card.mean, card.std), f"{weights}'s")
    spec = input_spec(network) if network else None
    return None if spec is None else _TrainedInputs(spec, f"{network}'s own")


def _load(
    config: DataConfig, trained: _TrainedInputs | None, watch: LoadingWatch
) -> tuple[ImageData, str]:
    """Load the images; return them, and in words where their size comes from."""
    if config.image_size is not None:
        return load_data(config, watch=watch), "as asked for"
    if trained is not None:
        sized = replace(config, image_size=trained.spec.image_size)
        return load_data(sized, watch=watch), trained.whose
    if not isinstance(config, TrainConfig) or not is_zoo(config.network):
        return load_data(config, watch=watch), OWN
    spec = input_spec(config.network)
    assert spec is not None  # known for every network of a library
    data = load_data(config, spec.image_size, watch)
    own = data.image_shape[-1] != spec.image_size
    return data, OWN if own else f"{config.network}'s own"


def _require_unread(config: DataConfig) -> None:
    """Raise `ArgumentError` for a set option that has no effect on images given as an object."""
    for name in READING:
        if getattr(config, name) != getattr(DataConfig, name):
            raise ArgumentError(
                name,
                expected="nothing beside images that are given",
                got=repr(getattr(config, name)),
                remedy="give it to load_images instead",
            )


def _counts(data: ImageData) -> str:
    """Say how many images and classes were found."""
    labelled = data.train.labelled
    unlabelled = len(data.train) - len(labelled)
    held_out = "" if data.dev is None else f", {len(data.dev):,} held out"
    unseen = f", {unlabelled:,} without a label" if unlabelled else ""
    return (
        f"{len(labelled):,} training images{unseen}{held_out}, "
        f"{len(data.test):,} test images, {few_classes(data.class_names)}"
    )


def _digits(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)
