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

# The paper's accuracies in percent: on CIFAR-100 by pair of networks, and for VGG by large data
# set. Teacher and student are trained alone; `fsp` and `svd`, the paper's method, are distilled
# students. VGG is distilled in 2 stages.
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

# From the paper's table of multi-task learning.
VGG_IN_ONE_STAGE: Final = {"fsp": 64.89, "svd": 65.54}

# Accuracies by the number of singular vectors, read from the paper's figure to about 0.1; 0 is the
# student alone. With one vector they agree with the table of networks, so VGG is 2-stage here too.
VECTORS: Final = {
    "VGG": {0: 61.4, 1: 65.1, 2: 66.4, 4: 66.1, 8: 65.4, 16: 65.1},
    "VGG_stride": {0: 54.2, 1: 61.2, 2: 61.5, 4: 61.6, 8: 61.8, 16: 62.0},
}


def published_accuracy(pair: str, config: Config) -> float | None:
    """The paper's accuracy in percent for a run of one of its networks; None if it gives none.

    The paper does not say which gradient of the SVD it used, so runs with any gradient are compared
    with the same number. Only for VGG does it give both 1-stage and 2-stage results; for the other
    networks, runs of both kinds are compared with its one number. `pair` is named as in `Run.pair`.

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
    """The key of a run's method in `NETWORKS`; None if the paper does not have the method."""
    if "loss" not in config:
        return "teacher" if str(config["network"]).endswith("_teacher") else "student"
    options = row_options(config).keys() - {"stages", "gradient"}
    return str(config["loss"]) if config["loss"] in ("fsp", "svd") and not options else None


@dataclass(frozen=True)
class Deviation:
    """A setting in which runs differ from the paper.

    Attributes:
        setting: the setting's name.
        paper: the value in the paper, or in its authors' code.
        here: the runs' values, with the names of the rows if the runs differ from each other.
        of_training: whether it is a setting of training rather than of distillation.
    """

    setting: str
    paper: str
    here: str
    of_training: bool


@dataclass(frozen=True)
class Setting:
    """A setting of the paper's protocol.

    Attributes:
        name: the setting's name.
        paper: the paper's value, as text.
        read: function from a run's configuration to the run's value as text, or None if the
            setting does not apply to the run.
    """

    name: str
    paper: str
    read: Callable[[Config], str | None]


def _field(name: str, missing: str = "none") -> Callable[[Config], str]:
    """Return a function that reads a field as text, and gives `missing` if the field is None."""

    def read(config: Config) -> str:
        value = config.get(name)
        text = f"{value:g}" if isinstance(value, float) else f"{value}"
        return missing if value is None else text

    return read


def _choice(name: str, texts: Mapping[str, str], needs: str = "") -> Callable[[Config], str | None]:
    """Return a function that reads a field and gives its value's text in `texts`.

    It gives None if the field is missing, or if the run's loss does not read the option `needs`.
    """

    def read(config: Config) -> str | None:
        if name not in config or (needs and not reads(config.get("loss", ""), needs)):
            return None
        return texts[config[name]]

    return read


def _data(config: Config) -> str | None:
    """The name of the data set; None for the paper's large data sets, which are no deviation."""
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
    """How the SVD's gradient is clipped; None in two-stage training, which clips nothing."""
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
    Setting("dropout", "the network's own", _field("dropout", missing="the network's own")),
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
    """List the settings in which runs differ from the paper's protocol.

    Args:
        teachers: the configuration of each teacher's row, by the row's name.
        students: the configuration of each student's row, by the row's name.
    """
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
    """Describe rows by name, or as "teacher" or "students" if they are all of that kind."""
    groups = {"teacher": teachers, "students": students}
    group = next((group for group, rows in groups.items() if names == rows), None)
    return group or ", ".join(f'"{name}"' for name in names)
