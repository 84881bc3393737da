"""The paper's numbers and protocol, and the settings in which runs differ from it.

All numbers are from Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value
Decomposition", ECCV 2018 (arXiv:1807.06819).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from svdistill.losses import reads
from svdistill.report.runs import Config, class_choice, dataset_name, row_options

# By networks, and by data set: trained alone, and the student distilled by FSP and by the paper's
# method. VGG is distilled in 2 stages.
NETWORKS: Final = {
    "VGG": {"teacher": 64.44, "student": 61.37, "fsp": 64.54, "svd": 65.05},
    "MobileNet": {"teacher": 57.85, "student": 56.15, "fsp": 56.53, "svd": 58.15},
    "ResNeXt": {"teacher": 66.58, "student": 64.00, "fsp": 63.60, "svd": 65.43},
    "VGG_stride": {"teacher": 64.44, "student": 54.17, "svd": 61.15},
}

LARGE_DATA: Final = {
    "Tiny-ImageNet": {"teacher": 53.37, "student": 47.32, "fsp": 48.77, "svd": 51.82},
    "ImageNet-50": {"teacher": 70.09, "student": 65.03, "fsp": 69.59, "svd": 71.04},
}

# From the table of multi-task learning.
VGG_IN_ONE_STAGE: Final = {"fsp": 64.89, "svd": 65.54}

# The figure on the number of vectors, read from the plot to about 0.1: accuracies by number, 0 for
# the student alone. With one vector they agree with the table of networks, so VGG is 2-stage.
VECTORS: Final = {
    "VGG": {0: 61.4, 1: 65.1, 2: 66.4, 4: 66.1, 8: 65.4, 16: 65.1},
    "VGG_stride": {0: 54.2, 1: 61.2, 2: 61.5, 4: 61.6, 8: 61.8, 16: 62.0},
}


def published_accuracy(pair: str, config: Config) -> float | None:
    """The paper's accuracy in percent for a run of one of its networks; None where it has none.

    The paper does not name its gradient, so runs of every gradient are compared with the same
    number. It gives 1-stage and 2-stage results for VGG alone; the one number of the other
    networks is compared with both. The pair is named as in `Run.pair`.

    Example:
        >>> svd = {"data": "parquet:cifar100", "loss": "svd"}
        >>> published_accuracy("VGG", svd), published_accuracy("VGG", {**svd, "transfer_epochs": 9})
        (65.54, 65.05)
        >>> published_accuracy("VGG", {**svd, "clip": "amortised"}) is None
        True

    Source: the tables of networks, of multi-task learning and of large data sets.
    """
    method = _method(config)
    if method is None:
        return None
    data = dataset_name(config)
    if data != "CIFAR-100":
        drawn = data == "ImageNet" and class_choice(config) == "50 classes"
        return LARGE_DATA.get("ImageNet-50" if drawn else data, {}).get(method)
    if pair == "VGG" and method in VGG_IN_ONE_STAGE and not config.get("transfer_epochs"):
        return VGG_IN_ONE_STAGE[method]
    return NETWORKS.get(pair, {}).get(method)


def _method(config: Config) -> str | None:
    """A run's method, as in `NETWORKS`; None if the paper has no such method."""
    if "loss" not in config:
        return "teacher" if str(config["network"]).endswith("_teacher") else "student"
    options = row_options(config).keys() - {"stages", "gradient"}
    return str(config["loss"]) if config["loss"] in ("fsp", "svd") and not options else None


@dataclass(frozen=True)
class Deviation:
    """A setting in which runs differ from the paper.

    Attributes:
        setting: its name.
        paper: the value in the paper, or in its authors' code.
        here: what runs have instead, and which runs if not all do.
        of_training: whether it is a setting of training rather than of distillation.
    """

    setting: str
    paper: str
    here: str
    of_training: bool


@dataclass(frozen=True)
class Setting:
    """A setting: its name, the paper's value, and its value in a run, or None if it has none."""

    name: str
    paper: str
    read: Callable[[Config], str | None]


def _field(name: str, missing: str = "none") -> Callable[[Config], str]:
    """Read a field; `missing` if it is empty."""

    def read(config: Config) -> str:
        value = config.get(name)
        text = f"{value:g}" if isinstance(value, float) else f"{value}"
        return missing if value is None else text

    return read


def _choice(name: str, texts: Mapping[str, str], needs: str = "") -> Callable[[Config], str | None]:
    """Read a field in words; None if it is missing, or the loss does not read the option needed."""

    def read(config: Config) -> str | None:
        if name not in config or (needs and not reads(config.get("loss", ""), needs)):
            return None
        return texts[config[name]]

    return read


def _data(config: Config) -> str | None:
    """None for the paper's other data sets, which are no deviation."""
    name = dataset_name(config)
    return None if name in ("Tiny-ImageNet", "ImageNet") else name


def _views(config: Config) -> str:
    views = config.get("views", 0)
    return f"{views}, then the first again" if 0 < views < config["epochs"] else "one every epoch"


def _teaching(config: Config) -> str | None:
    if "loss" not in config:
        return None
    return "read from a knowledge store" if config.get("knowledge") else "run in every step"


def _clipping(config: Config) -> str | None:
    """None in two-stage training, which clips nothing."""
    two_stages = config.get("transfer_epochs", 0) > 0
    return None if two_stages else _choice("clip", CLIP_TEXTS, needs="num_vectors")(config)


SCHEDULES: Final = {
    "paper": "× 0.1 at half, × 0.01 at three quarters",
    "one_cycle": "one cycle, up to the learning rate and down",
    "cosine": "a cosine down, after a warm-up",
    "constant": "constant",
}

AUGMENTATIONS: Final = {
    "paper": "flip, rotation, crop",
    "crop_flip": "crop and flip",
    "photo": "resized crop, flip, colours",
    "trivial": "resized crop, flip, TrivialAugment",
    "none": "none",
}

GRADIENT_TEXTS: Final = {
    "exact": "exact",
    "poster": "the paper's formula",
    "authors": "as in the authors' code",
}

CLIP_TEXTS: Final = {
    "norm": "each tensor, as in the authors' code",
    "poster": "each tensor, by the paper's rule",
    "global": "one scale for all tensors",
    "amortised": "one scale for all tensors, measured in some steps",
    "none": "none",
}

TRAINING: Final = (
    Setting("data", "CIFAR-100", _data),
    Setting("classes", "all classes", class_choice),
    Setting("training images", "all", _field("train_size", missing="all")),
    Setting(
        "held-out share of them", "none", lambda config: f"{config.get('dev_fraction') or 'none'}"
    ),
    Setting("image size", "the data's", _field("image_size", missing="the data's")),
    Setting("width of the networks", "1", _field("width")),
    Setting("epochs", "200", _field("epochs")),
    Setting("batch size", "128", _field("batch_size")),
    Setting("optimizer", "sgd", _field("optimizer")),
    Setting("learning rate", "0.01", _field("learning_rate")),
    Setting("schedule", SCHEDULES["paper"], _choice("schedule", SCHEDULES)),
    Setting("weight decay", "0.0001", _field("weight_decay")),
    Setting("bound on the whole gradient", "none", _field("max_grad_norm")),
    Setting("augmentation", AUGMENTATIONS["paper"], _choice("augmentation", AUGMENTATIONS)),
    Setting("new views of an image", "one every epoch", _views),
    Setting("label smoothing", "none", lambda config: f"{config.get('label_smoothing') or 'none'}"),
    Setting("mixed images", "none", _field("mix")),
    Setting("average of the weights", "none", _field("ema")),
    Setting("precision", "float32", _field("precision", missing="float32")),
)

TEACHING: Final = (
    Setting("teacher", "run in every step", _teaching),
    Setting("the teacher's precision", "float32", lambda config: config.get("teacher_precision")),
    Setting(
        "gradient of the SVD",
        GRADIENT_TEXTS["poster"],
        _choice("gradient", GRADIENT_TEXTS, needs="gradient"),
    ),
    Setting("clipping of the SVD's gradient", CLIP_TEXTS["norm"], _clipping),
)


def deviations(teachers: Mapping[str, Config], students: Mapping[str, Config]) -> list[Deviation]:
    """The settings in which runs differ from the paper's, of configurations by rows' names."""
    found = []
    for setting in TRAINING + TEACHING:
        values: dict[str, list[str]] = {}
        for name, config in (*teachers.items(), *students.items()):
            value = setting.read(config)
            if value is not None:
                values.setdefault(value, []).append(name)
        others = [value for value in values if value != setting.paper]
        if len(values) > 1:
            others = [
                f"{value} ({_rows(values[value], list(teachers), list(students))})"
                for value in others
            ]
        if others:
            found.append(
                Deviation(setting.name, setting.paper, "; ".join(others), setting in TRAINING)
            )
    return found


def _rows(names: list[str], teachers: list[str], students: list[str]) -> str:
    """The rows that have a value."""
    groups = {"teacher": teachers, "students": students}
    group = next((group for group, rows in groups.items() if names == rows), None)
    return group or ", ".join(f'"{name}"' for name in names)
