"""Finished runs: reading and naming them, and finding the run that trained a student's teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from svdistill.common import RunError, SVDistillError, millions, nearest
from svdistill.config import OBJECT
from svdistill.export import ShippedFile, read_shipped_files
from svdistill.losses import OPTIONS, registered_specs, titles, unread_options
from svdistill.networks import is_code, is_zoo, network_names
from svdistill.runs import (
    EpochRecord,
    RunDirectory,
    RunSummary,
    read_card,
    read_environment,
    read_records,
    read_summary,
    stored_values,
    weights_file,
)
from svdistill.store import IN_BF16, MANIFEST_NAME, Manifest, read_manifest
from svdistill.training import BeforeAfter, PredictionSummary, read_before_after, read_predictions

Config = Mapping[str, Any]

GRADIENTS: Final = {"poster": "poster's gradient", "authors": "authors' gradient"}

# How a row's name mentions an option of a loss whose value differs from the paper's.
OPTION_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "num_vectors": "k = {}".format,
    "beta": "beta = {:g}".format,
    "gradient": lambda gradient: GRADIENTS[gradient],
    "temperature": "T = {:g}".format,
    "grid": lambda grid: f"grid {grid}" if grid else "every position",
    "nontarget_weight": "DKD beta = {:g}".format,
}

CLIPS: Final = {
    "norm": "clipped",
    "poster": "poster's clip",
    "global": "global",
    "amortised": "amortised",
    "none": "unclipped",
}

# Names of data sets: first by the scheme of the option `data`, then by the last part of its path.
SCHEME_NAMES: Final = {
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "Tiny-ImageNet",
    OBJECT: "images given in Python",
}

DATA_NAMES: Final = {"cifar100": "CIFAR-100", "cifar-100": "CIFAR-100", "imagenet": "ImageNet"}

FAMILIES: Final = {
    "vgg": "VGG",
    "vgg_stride": "VGG_stride",
    "mobilenet": "MobileNet",
    "resnext": "ResNeXt",
}

TWO_STAGES: Final = "2-stage"

DIGITS: Final = re.compile(r"([0-9]+)")


def row_name(config: Config) -> str:
    """Name the table row of a run: its method, and the options that differ from the usual ones.

    Usual are the paper's options, the loss weights of the loss's registry entry, and clipping of
    each tensor, or no clipping for losses on logits. Two-stage training clips nothing, so its rows
    name no clip. A comparison leaves out the options that all its rows share.

    Args:
        config: the values of a run's config.yaml; options with their usual values may be missing.

    Example:
        >>> row_name({"network": "vgg_student", "loss": "svd", "clip": "amortised"})
        'SVD, amortised'
        >>> row_name({"network": "vgg_teacher"})
        'teacher'
    """
    if "loss" not in config:
        return "teacher" if str(config["network"]).endswith("_teacher") else "student alone"
    return ", ".join([loss_name(config), *row_options(config).values()])


def row_options(config: Config) -> dict[str, str]:
    """The parts of a distilled run's row name after the loss, as a dictionary by option.

    An option's usual value is left out, unless the loss has another default.

    Example:
        >>> row_options({"loss": "fsp"}), row_options({"loss": "svd", "num_vectors": 4})
        ({'stages': '1-stage'}, {'num_vectors': 'k = 4'})
        >>> [row_options({"loss": "position_svd", "num_vectors": k}) for k in (1, 4)]
        [{'num_vectors': 'k = 1'}, {'num_vectors': 'k = 4'}]
    """
    loss = str(config["loss"])
    two_stages = config.get("transfer_epochs", 0) > 0
    usually_two = any(spec.stages == 2 for spec in registered_specs(loss))
    clip = config.get("clip", "norm")
    parts = {"stages": TWO_STAGES if two_stages else "1-stage" if usually_two else ""}
    own = [spec.options for spec in registered_specs(loss)]
    for option, text in OPTION_TEXTS.items():
        usual = OPTIONS[option]
        left_out = None if any(one.get(option, usual) != usual for one in own) else usual
        if config.get(option) not in (None, left_out):
            parts[option] = text(config[option])
    if not two_stages and clip != ("none" if _is_task_loss(loss) else "norm"):
        parts["clip"] = CLIPS[clip]
    if config.get("student_taps"):
        parts["taps"] = f"taps {' '.join(config['student_taps'])}"
    parts["unlabelled"] = "unlabelled images too" if config.get("unlabelled") else ""
    parts["weights"] = _weights(config)
    return {option: text for option, text in parts.items() if text}


def loss_name(config: Config) -> str:
    """The titles of a run's losses, joined by plus signs and without their options.

    Example:
        >>> loss_name({"loss": "svd+soft_target"})
        'SVD + soft target'
    """
    return " + ".join(titles(str(config["loss"])))


def _is_task_loss(loss: str) -> bool:
    """Whether all losses of a sum are registered losses whose gradients are never clipped."""
    specs = registered_specs(loss)
    return len(specs) == len(titles(loss)) and not any(spec.clipped for spec in specs)


def _weights(config: Config) -> str:
    """The weights of task, transfer and added losses as text; empty if all have usual values."""
    loss = str(config["loss"])
    weights = [config.get("task_weight", 1.0), config.get("transfer_weight", 1.0)]
    usual = [1.0, 1.0]
    own = config.get("soft_target_weight") or 1.0
    if added := [spec for spec in registered_specs(loss) if spec.weight]:
        usual = list(added[0].usual_weights)
        if not _is_task_loss(loss):
            task, usual_own = added[0].weights_beside
            usual = [task, 1.0, usual_own]
            weights.append(own)
    elif own != 1.0 and "soft_target_weight" not in unread_options(loss):
        weights.append(own)  # of another library's loss on logits, such as torchdistill's
    return "" if weights == usual else "weights " + " : ".join(f"{w:g}" for w in weights)


def dataset_name(config: Config) -> str:
    """The usual name of a run's data set.

    Example:
        >>> dataset_name({"data": "parquet:data/cifar100"})
        'CIFAR-100'
    """
    scheme, _, place = str(config["data"]).partition(":")
    name = Path(place or scheme).name
    return SCHEME_NAMES.get(scheme) or DATA_NAMES.get(name.lower(), name)


def class_choice(config: Config) -> str:
    """Describe in words which classes of its data set a run used.

    Example:
        >>> class_choice({"classes_every": 5}), class_choice({"classes": "50@0"})
        ('one class in 5', '50 classes')
        >>> class_choice({"classes": "rest:50@0"})
        'all but 50 classes'
    """
    every, drawn = config.get("classes_every", 1), config.get("classes")
    chosen = [f"one class in {every}"] if every > 1 else []
    if drawn:
        count = drawn.removeprefix("rest:").partition("@")[0]
        chosen.append(f"{'all but ' if drawn.startswith('rest:') else ''}{count} classes")
    return ", ".join(chosen) or "all classes"


@dataclass(frozen=True)
class Run:
    """A finished run, without its weights.

    Attributes:
        path: the run directory.
        config: the values of its config.yaml.
        environment: machine and versions, from its environment.json.
        summary: its results.
        records: the metrics of each epoch.
        before_after: accuracy and cost of its networks; None if no distillation recorded them.
        predictions: a summary of its predictions on the test images; None for runs of earlier
            versions.
        shipped: measurements of the exported files in its directory, the fastest first.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: RunSummary
    records: tuple[EpochRecord, ...]
    before_after: BeforeAfter | None = None
    predictions: PredictionSummary | None = None
    shipped: tuple[ShippedFile, ...] = ()

    @cached_property
    def store(self) -> Manifest | None:
        """The manifest of the knowledge store that the run read; None if there is none any more."""
        if not self.config.get("knowledge"):
            return None
        try:
            return read_manifest(Path(self.config["knowledge"]) / MANIFEST_NAME)
        except SVDistillError:  # the store is missing or damaged
            return None

    @property
    def test_images(self) -> int | None:
        """The number of test images, if it was recorded."""
        if self.predictions is not None:
            return self.predictions.images
        return None if self.before_after is None else self.before_after.test_images

    @property
    def pair(self) -> str:
        """The name of the pair of networks, teacher and student, that the run belongs to.

        This is the family, such as VGG, of one of the paper's networks, and the network's own name
        for others. A network given as a Python object has no name and is identified by its size.
        """
        if self.summary.network == OBJECT:
            return f"own network, {millions(self.summary.parameters, digits=2)} parameters"
        stem = self.summary.network.removesuffix("_teacher").removesuffix("_student")
        return FAMILIES.get(stem, stem)

    @property
    def is_of_paper(self) -> bool:
        """Whether the run trained one of the paper's networks."""
        return self.summary.network in network_names()

    @property
    def is_distilled(self) -> bool:
        """Whether the run had a transfer loss."""
        return "loss" in self.config

    @property
    def is_teacher(self) -> bool:
        """Whether the run trained one of the paper's teacher networks."""
        return self.summary.network.endswith("_teacher") and not self.is_distilled

    @property
    def has_teacher_of_others(self) -> bool:
        """Whether the run is known to have learned from a teacher of other classes than its own."""
        ran = None if self.before_after is None else self.before_after.teacher
        if ran is not None:
            return ran.accuracy is None
        return self.store is not None and self.store.teacher_accuracy is None

    @property
    def row(self) -> str:
        """The name of the run's row in tables and figures, see `row_name`."""
        return row_name(self.config)


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read the finished runs at or below some paths; unfinished runs are skipped.

    Args:
        paths: run directories, or folders that contain some at any depth.

    Returns:
        Each run once, sorted by path. Numbers in names are sorted by value: `k2` before `k16`.

    Raises:
        RunError: a path that does not exist or contains no finished run, or a damaged run.
    """
    folders = {folder.resolve(): folder for path in paths for folder in _finished(Path(path))}
    return [_read(folder) for folder in sorted(folders.values(), key=_natural_key)]


def _natural_key(path: Path) -> list[list[str | int]]:
    """The sort key of a path: each of its names, split into text and integers alternately."""
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(DIGITS.split(name))]
        for name in path.parts
    ]


def _finished(path: Path) -> list[Path]:
    summaries = [path / "summary.json", *path.rglob("*/summary.json")]
    folders = [file.parent for file in summaries if file.exists()]
    found = [folder for folder in folders if RunDirectory(folder).config.exists()]
    if found:
        return found
    if path.exists():
        got = "unfinished runs only" if any(path.rglob("config.yaml")) else "no run"
        remedy = "finish a run with --resume, or give another folder"
    else:
        siblings = [folder.name for folder in path.parent.glob("[!.]*") if folder.is_dir()]
        got, remedy = "nothing", nearest(path.name, siblings) if siblings else "check the path"
    expected = "a run directory, or a folder of finished runs"
    raise RunError(str(path), expected=expected, got=got, remedy=remedy)


def _read(folder: Path) -> Run:
    run = RunDirectory(folder)
    return Run(
        path=folder,
        config=stored_values(run.config),
        environment=read_environment(run.environment),
        summary=read_summary(folder),
        records=tuple(read_records(folder)),
        before_after=read_before_after(folder),
        predictions=read_predictions(folder),
        shipped=read_shipped_files(folder),
    )


def named_teacher(run: Run) -> str:
    """The teacher that a run's configuration or knowledge store names; empty if neither does."""
    if not run.config.get("knowledge"):
        return str(run.config.get("teacher") or "")
    return "" if run.store is None else run.store.teacher.removesuffix(IN_BF16)


def teacher_among(run: Run, runs: Sequence[Run]) -> Run | None:
    """Find the run that trained a student's teacher; None if it is not among `runs`.

    A teacher that was moved is found by its directory's name, unless several runs have that name.
    """
    named = named_teacher(run)
    if not named:
        return None
    others = [other for other in runs if other.path != run.path]
    path = Path(named)
    if path.exists():
        same = [other for other in others if other.path.resolve() == path.resolve()]
    else:
        same = [other for other in others if other.path.name == path.name]
    return same[0] if len(same) == 1 else None


def teacher_network(run: Run) -> str:
    """The name of a run's teacher network; empty if it is unknown or a Python object."""
    named = named_teacher(run)
    if is_zoo(named) or is_code(named):
        return named
    file = weights_file(Path(named))
    try:
        if named and file.exists():
            card = read_card(file)
            name = str(run.config.get("teacher_network") or "") if card is None else card.network
        else:
            name = read_summary(named).network
    except SVDistillError:  # the teacher is missing or damaged
        return ""
    return "" if name == OBJECT else name
