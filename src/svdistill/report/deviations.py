"""What of the paper's protocol the runs differ in, setting by setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from svdistill.losses import reads
from svdistill.networks import network_names, published_size
from svdistill.report.comparison import Comparison, MethodRuns
from svdistill.report.runs import class_choice, dataset_name
from svdistill.report.tables import Cell, Heading, HTMLTable

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Deviation:
    """A setting in which runs differ from the paper.

    Attributes:
        setting: in a few words.
        paper: what the paper, or its authors' code, has.
        here: what runs have instead, and which of them where not all do.
        of_training: whether it is one of training, rather than of the way to teach.
    """

    setting: str
    paper: str
    here: str
    of_training: bool


@dataclass(frozen=True)
class _Setting:
    """One setting: its name, the paper's value, and how to read it off a run.

    None is read where a run has no such setting.
    """

    name: str
    paper: str
    read: Callable[[Config], str | None]


def _field(name: str, missing: str = "none") -> Callable[[Config], str]:
    """Reads a field, and `missing` where it is empty."""

    def read(config: Config) -> str:
        value = config.get(name)
        return (
            missing if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"
        )

    return read


def _choice(name: str, words: Mapping[str, str]) -> Callable[[Config], str | None]:
    """Reads a field that takes a few values, each in words; None where the field is not there."""
    return lambda config: words[config[name]] if name in config else None


def _svd_choice(name: str, words: Mapping[str, str]) -> Callable[[Config], str | None]:
    """The same, for runs with the SVD loss alone."""
    read = _choice(name, words)
    return lambda config: read(config) if reads(config.get("loss", ""), "num_vectors") else None


def _data(config: Config) -> str | None:
    """The paper's other data sets are none of its settings."""
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
    """In two stages nothing is clipped."""
    two_stages = config.get("transfer_epochs", 0) > 0
    return None if two_stages else _svd_choice("clip", CLIPS)(config)


SCHEDULES: Final = {
    "paper": "× 0.1 at half, × 0.01 at three quarters",
    "one_cycle": "one cycle, up to the learning rate and down",
    "constant": "constant",
}

AUGMENTATIONS: Final = {
    "paper": "flip, rotation, crop",
    "crop_flip": "crop and flip",
    "none": "none",
}

GRADIENTS: Final = {
    "exact": "exact",
    "poster": "the paper's formula",
    "authors": "as in the authors' code",
}

CLIPS: Final = {
    "norm": "each tensor, as in the authors' code",
    "poster": "each tensor, by the paper's rule",
    "global": "one scale for all tensors",
    "amortised": "one scale for all tensors, measured in some steps",
    "none": "none",
}

TRAINING: Final = (
    _Setting("data", "CIFAR-100", _data),
    _Setting("classes", "all classes", class_choice),
    _Setting("training images", "all", _field("train_size", missing="all")),
    _Setting(
        "held-out share of them", "none", lambda config: f"{config.get('dev_fraction') or 'none'}"
    ),
    _Setting("image size", "the data's", _field("image_size", missing="the data's")),
    _Setting("width of the networks", "1", _field("width")),
    _Setting("epochs", "200", _field("epochs")),
    _Setting("batch size", "128", _field("batch_size")),
    _Setting("optimizer", "sgd", _field("optimizer")),
    _Setting("learning rate", "0.01", _field("learning_rate")),
    _Setting("schedule", SCHEDULES["paper"], _choice("schedule", SCHEDULES)),
    _Setting("weight decay", "0.0001", _field("weight_decay")),
    _Setting("bound on the whole gradient", "none", _field("max_grad_norm")),
    _Setting("augmentation", AUGMENTATIONS["paper"], _choice("augmentation", AUGMENTATIONS)),
    _Setting("new views of an image", "one every epoch", _views),
    _Setting("precision", "float32", _field("precision", missing="float32")),
)

TEACHING: Final = (
    _Setting("teacher", "run in every step", _teaching),
    _Setting("gradient of the SVD", GRADIENTS["poster"], _svd_choice("gradient", GRADIENTS)),
    _Setting("clipping of the SVD's gradient", CLIPS["norm"], _clipping),
)


def deviations(comparison: Comparison) -> list[Deviation]:
    """The settings of a comparison's runs that are not the paper's.

    Args:
        comparison: of one pair of networks on one data set.

    Returns:
        In a fixed order; none where every run follows the paper.
    """
    found = []
    for setting in TRAINING + TEACHING:
        values: dict[str, list[MethodRuns]] = {}
        for method in comparison.methods:
            value = setting.read(method.runs[0].config)
            if value is not None:
                values.setdefault(value, []).append(method)
        others = {value: rows for value, rows in values.items() if value != setting.paper}
        if others:
            one_value = len(values) == 1
            here = [
                value if one_value else f"{value} ({_names(rows, comparison)})"
                for value, rows in others.items()
            ]
            found.append(
                Deviation(setting.name, setting.paper, "; ".join(here), setting in TRAINING)
            )
    return found


def deviation_table(comparison: Comparison, found: Sequence[Deviation]) -> HTMLTable:
    """The deviations of a comparison as a table."""
    return HTMLTable(
        title=comparison.title,
        caption="What the paper's protocol has, and what these runs have",
        headings=tuple(Heading(text, numeric=False) for text in ("setting", "paper", "here")),
        rows=tuple((Cell(one.setting), Cell(one.paper), Cell(one.here)) for one in found),
    )


def network_deviations(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """How the networks' counts differ from those in the paper's table, at full width."""
    used = {run.summary.network for comparison in comparisons for run in comparison.runs}
    noted = {name: published_size(name).deviation for name in network_names() if name in used}
    return {name: note for name, note in noted.items() if note}


def _names(rows: Sequence[MethodRuns], comparison: Comparison) -> str:
    """The rows that a value is of."""
    if tuple(rows) == comparison.teachers:
        return "teacher"
    if tuple(rows) == comparison.students:
        return "students"
    return ", ".join(f'"{row.name}"' for row in rows)
