"""The images of a run: of which size, and normalised how.

The rule; of size and of normalisation the first holds that applies:

1. `image_size`, where it is given;
2. those of the knowledge store, or that the teacher was trained on, as its run or library says;
3. those that the weights were trained on which the network starts from, likewise;
4. the data's own. Where its images differ in size, or are not square, a network of another library
   says its size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from svdistill.common import ArgumentError
from svdistill.config import OBJECT, PRETRAINED, CacheConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData, MixedSplit, load_images
from svdistill.networks import InputSpec, input_spec, is_zoo
from svdistill.runs import read_card, weights_file
from svdistill.store import KnowledgeStore
from svdistill.training.progress import Reporter

OWN: Final = "the data's own"

SHOWN_CLASSES: Final = 5

# What reads a data set by name. Images that are given have been chosen and sized already.
READING: Final = (
    *("image_size", "classes_every", "classes", "train_size", "dev_fraction", "unlabelled"),
    *("label_column", "image_column", "train_split", "test_split"),
    *("memory_limit_gb", "workers"),
)


@dataclass(frozen=True)
class Trained:
    """The images that a trained network knows, and in words whose they are."""

    spec: InputSpec
    whose: str


def run_images(
    config: TrainConfig | CacheConfig, reporter: Reporter, given: ImageData | None = None
) -> ImageData:
    """The images of a run, by the rule above; says in a line what was chosen, and why.

    Args:
        config: which images, and for which networks.
        reporter: is told.
        given: images that are there already. They keep their size, and if they come prepared also
            their normalisation.

    Raises:
        SVDistillError: images, a teacher, weights or a store that cannot be read.
    """
    trained = _trained(config)
    if isinstance(config, TrainConfig):
        input_spec(config.network)  # a name that its library lacks shows before images are read
    if given is not None:
        _require_unread(config)
        data, sized = given, "as given"
    elif config.image_size is not None:
        data, sized = load_data(config), "as asked for"
    elif trained is not None:
        data = load_data(replace(config, image_size=trained.spec.image_size))
        sized = trained.whose
    else:
        data, sized = _own_or_network_size(config)
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


def load_data(config: TrainConfig | CacheConfig, fallback_size: int | None = None) -> ImageData:
    """The images that a configuration names, whatever its networks know.

    Args:
        config: which images.
        fallback_size: see `load_images`.
    """
    return load_images(
        config.data,
        image_size=config.image_size,
        fallback_size=fallback_size,
        classes_every=config.classes_every,
        classes=config.classes,
        train_size=config.train_size,
        dev_fraction=config.dev_fraction,
        memory_limit_gb=config.memory_limit_gb,
        workers=config.workers,
        unlabelled=config.unlabelled or None,
        label_column=config.label_column or None,
        image_column=config.image_column or None,
        train_split=config.train_split or None,
        test_split=config.test_split or None,
        # The held-out images are the same for every seed of a run.
        seed=0,
    )


def _trained(config: TrainConfig | CacheConfig) -> Trained | None:
    """What the store, the teacher, or else the network to train was trained on."""
    if isinstance(config, DistillConfig) and config.knowledge:
        known = KnowledgeStore(config.knowledge).manifest
        return Trained(InputSpec(known.image_size, known.mean, known.std), f"{config.knowledge}'s")
    trained = None
    if not isinstance(config, TrainConfig) or isinstance(config, DistillConfig):
        if config.teacher != OBJECT and Path(config.teacher).exists():
            trained = _said_of(config.teacher, config.teacher_network)
        else:
            trained = _said_of(config.teacher_weights, config.teacher)
    if trained is None and isinstance(config, TrainConfig) and config.weights:
        trained = _said_of(config.weights, config.network)
    return trained


def _said_of(weights: str, network: str | None) -> Trained | None:
    """What the card of a weights file says, or else a library of its network."""
    file = weights_file(Path(weights))
    if weights not in ("", PRETRAINED) and file.suffix == ".safetensors":
        card = read_card(file)
        if card is not None:
            return Trained(InputSpec(card.image_size, card.mean, card.std), f"{weights}'s")
    spec = input_spec(network) if network else None
    return None if spec is None else Trained(spec, f"{network}'s own")


def _own_or_network_size(config: TrainConfig | CacheConfig) -> tuple[ImageData, str]:
    if not isinstance(config, TrainConfig) or not is_zoo(config.network):
        return load_data(config), OWN
    spec = input_spec(config.network)
    assert spec is not None  # a library's network has one
    data = load_data(config, fallback_size=spec.image_size)
    own = data.image_shape[-1] != spec.image_size
    return data, OWN if own else f"{config.network}'s own"


def _require_unread(config: TrainConfig | CacheConfig) -> None:
    """Raise `ArgumentError` for an option that would have no effect on given images."""
    usual = {field.name: field.default for field in fields(config)}
    for name in READING:
        if getattr(config, name) != usual[name]:
            raise ArgumentError(
                name,
                expected="nothing beside images that are given",
                got=repr(getattr(config, name)),
                remedy="give it to load_images instead",
            )


def _counts(data: ImageData) -> str:
    """How many images there are of what, for a person to see that it is what was meant."""
    labelled = data.train.labelled if isinstance(data.train, MixedSplit) else data.train
    unlabelled = len(data.train) - len(labelled)
    held_out = "" if data.dev is None else f", {len(data.dev):,} held out"
    unseen = f", {unlabelled:,} without a label" if unlabelled else ""
    names = ", ".join(data.class_names[:SHOWN_CLASSES])
    more = ", ..." if data.num_classes > SHOWN_CLASSES else ""
    return (
        f"{len(labelled):,} training images{unseen}{held_out}, "
        f"{len(data.test):,} test images, {data.num_classes} classes: {names}{more}"
    )


def _digits(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)
