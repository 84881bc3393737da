"""Finished runs, their names in tables, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from svdistill.common import RunError, SVDistillError, nearest
from svdistill.config import OBJECT
from svdistill.losses import OPTIONS, may_read, registered_specs, titles
from svdistill.networks import NetworkDescription, is_code, is_zoo, network_names
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
from svdistill.store import MANIFEST_NAME, read_manifest

GRADIENTS: Final = {"poster": "poster's gradient", "authors": "authors' gradient"}

# How a row names an option of a loss that is not as in the paper.
OPTION_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "num_vectors": "k = {}".format,
    "beta": "beta = {:g}".format,
    "gradient": lambda gradient: GRADIENTS[gradient],
    "temperature": "T = {:g}".format,
    "grid": "grid {}".format,
    "nontarget_weight": "DKD beta = {:g}".format,
}

CLIPS: Final = {
    "norm": "clipped",
    "poster": "poster's clip",
    "global": "global",
    "amortised": "amortised",
    "none": "unclipped",
}


def row_name(config: Mapping[str, Any]) -> str:
    """Name the row of a run: its method, and what differs there from the paper's way.

    Runs of one row differ in seed, schedule or length alone. In 2-stage training nothing is
    clipped, so no clip is named. Labels are usually weighted 0.1 beside soft targets of 0.9, and
    soft targets are not clipped; every other loss is usually clipped per tensor and weighted 1.

    Args:
        config: the values of a run's config.yaml; those that an older version did not know may
            be missing.

    Returns:
        The name.

    Example:
        >>> row_name({"network": "vgg_student", "loss": "svd", "clip": "amortised"})
        'SVD, amortised'
        >>> row_name({"network": "vgg_teacher"})
        'teacher'
    """
    if "loss" not in config:
        return "teacher" if str(config["network"]).endswith("_teacher") else "student alone"
    loss = str(config["loss"])
    two_stages = config.get("transfer_epochs", 0) > 0
    usually_two = any(spec.stages == 2 for spec in registered_specs(loss))
    suffixes = ["2-stage"] if two_stages else ["1-stage"] if usually_two else []
    suffixes += [
        text(config[option])
        for option, text in OPTION_TEXTS.items()
        if may_read(loss, option) and config.get(option, OPTIONS[option]) != OPTIONS[option]
    ]
    usual_clip = "none" if _is_of_task(loss) else "norm"
    if not two_stages and config.get("clip", "norm") != usual_clip:
        suffixes.append(CLIPS[config.get("clip", "norm")])
    if config.get("student_taps"):
        suffixes.append(f"taps {' '.join(config['student_taps'])}")
    if config.get("unlabelled"):
        suffixes.append("unlabelled images too")
    return ", ".join([loss_name(config), *suffixes, *_weights(config)])


def loss_name(config: Mapping[str, Any]) -> str:
    """Name what a run transferred, and nothing of how.

    Example:
        >>> loss_name({"loss": "svd+soft_target"})
        'SVD + soft target'
    """
    return " + ".join(titles(str(config["loss"])))


def _is_of_task(loss: str) -> bool:
    """Whether all of a sum's losses are of those that are not clipped beside another."""
    specs = registered_specs(loss)
    return len(specs) == len(titles(loss)) and not any(spec.clipped for spec in specs)


def _weights(config: Mapping[str, Any]) -> list[str]:
    """The weights of task and transfer, and of a soft target beside another loss, if unusual."""
    loss = str(config["loss"])
    weights = [config.get("task_weight", 1.0), config.get("transfer_weight", 1.0)]
    usual = [1.0, 1.0]
    if _is_of_task(loss):
        usual = [0.1, 0.9]
    elif added := [spec.weight for spec in registered_specs(loss) if spec.weight]:
        weights += [config.get(weight, 1.0) for weight in added]
        usual = [0.1, 1.0, *[0.9] * len(added)]
    return [] if weights == usual else ["weights " + " : ".join(f"{w:g}" for w in weights)]


# By what a configuration says as a whole or before the colon; by the last part of a path.
SCHEME_NAMES: Final = {
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "Tiny-ImageNet",
    OBJECT: "images given in Python",
}

DATA_NAMES: Final = {"cifar100": "CIFAR-100", "cifar-100": "CIFAR-100", "imagenet": "ImageNet"}


def dataset_name(config: Mapping[str, Any]) -> str:
    """The data set of a run as people name it.

    Example:
        >>> dataset_name({"data": "parquet:data/cifar100"})
        'CIFAR-100'
    """
    scheme, _, place = str(config["data"]).partition(":")
    name = Path(place or scheme).name
    return SCHEME_NAMES.get(scheme) or DATA_NAMES.get(name.lower(), name)


def class_choice(config: Mapping[str, Any]) -> str:
    """Which of its classes a run kept.

    Example:
        >>> class_choice({"classes_every": 5}), class_choice({"classes": "50@0"})
        ('one class in 5', '50 classes')
    """
    every, drawn = config.get("classes_every", 1), config.get("classes")
    chosen = [f"one class in {every}"] if every > 1 else []
    chosen += [f"{drawn.partition('@')[0]} classes"] if drawn else []
    return ", ".join(chosen) or "all classes"


def network_table(network: NetworkDescription) -> Table:
    """One network, a row for each part; taps are marked.

    Args:
        network: as `describe_network` returns it.

    Returns:
        A table for a rich console.
    """
    side = network.image_size
    table = Table(
        title=f"{network.name}, {network.num_classes} classes, width {network.width:g}, "
        f"images 3x{side}x{side}",
        caption=_caption(network),
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("part")
    table.add_column("tap")
    for heading in ("output", "parameters", "FLOPs"):
        table.add_column(heading, justify="right")
    for stage in network.stages:
        table.add_row(
            stage.path,
            "tap" if stage.is_tap else "",
            "x".join(map(str, stage.shape)),
            f"{stage.parameters:,}",
            millions(stage.flops),
        )
    table.add_section()
    table.add_row("all", "", "", f"{network.profile.parameters:,}", millions(network.profile.flops))
    if network.published is not None:
        table.add_row(
            "paper's table",
            "",
            "",
            millions(network.published.parameters, digits=2),
            millions(network.published.flops),
        )
    return table


def networks_table(networks: Sequence[NetworkDescription]) -> Table:
    """Several networks, a row for each, with the taps' shapes.

    Args:
        networks: as `describe_network` returns them.

    Returns:
        A table for a rich console.
    """
    table = Table(title="Networks (FLOPs = 2 x multiply-adds)", title_justify="left")
    table.add_column("network", no_wrap=True)
    for heading in ("parameters", "seed says", "FLOPs", "seed says"):
        table.add_column(heading, justify="right")
    table.add_column("taps")
    for network in networks:
        published = network.published
        table.add_row(
            network.name,
            millions(network.profile.parameters, digits=2),
            millions(published.parameters, digits=2) if published else "",
            millions(network.profile.flops),
            millions(published.flops) if published else "",
            " ".join("x".join(map(str, shape)) for _, shape in network.profile.taps),
        )
    return table


def millions(count: int, digits: int = 1) -> str:
    """A count in millions.

    Example:
        >>> millions(10_885_540, digits=2)
        '10.89M'
    """
    return f"{count / 1e6:.{digits}f}M"


def _caption(network: NetworkDescription) -> str:
    note = "FLOPs = 2 x multiply-adds of one image."
    if network.published is not None and network.published.deviation:
        note += f" Deviation: {network.published.deviation}."
    return note


NUMBER: Final = re.compile(r"([0-9]+)")


FAMILIES = {
    "vgg": "VGG",
    "vgg_stride": "VGG_stride",
    "mobilenet": "MobileNet",
    "resnext": "ResNeXt",
}


@dataclass(frozen=True)
class Run:
    """All that a finished run has left but its weights.

    Attributes:
        path: the run directory.
        config: the values of its config.yaml.
        environment: machine and versions, from its environment.json.
        summary: what came out.
        records: its epochs.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: RunSummary
    records: tuple[EpochRecord, ...]

    @property
    def weights(self) -> Path | None:
        """Its network after the last epoch; None where the run was kept without it."""
        path = RunDirectory(self.path).student
        return path if path.exists() else None

    @property
    def pair(self) -> str:
        """The pair of networks it belongs to, as people say it.

        One of the paper's networks is called by its family, teacher or student. One that was given
        as a Python object has no name, and is told from others by its size.
        """
        if self.summary.network == OBJECT:
            return f"own network, {millions(self.summary.parameters, digits=2)} parameters"
        stem = self.summary.network.removesuffix("_teacher").removesuffix("_student")
        return FAMILIES.get(stem, stem)

    @property
    def is_of_seed(self) -> bool:
        """Whether it trained one of the paper's networks."""
        return self.summary.network in network_names()

    @property
    def is_distilled(self) -> bool:
        """Whether it had a transfer loss."""
        return "loss" in self.config

    @property
    def is_teacher(self) -> bool:
        """Whether it trained a network of the paper's that is meant to teach."""
        return self.summary.network.endswith("_teacher") and not self.is_distilled

    @property
    def row(self) -> str:
        """The row of tables and figures it belongs to, see `row_name`."""
        return row_name(self.config)


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read the finished runs at or below some paths; unfinished ones are skipped.

    Args:
        paths: run directories, or folders that hold some at any depth.

    Returns:
        Each run once, sorted by path, in which numbers count as numbers: `k2` is before `k16`.

    Raises:
        RunError: a path that does not exist or holds no finished run, or a damaged run.
    """
    folders = {folder.resolve(): folder for path in paths for folder in _finished(Path(path))}
    return [_read(folder) for folder in sorted(folders.values(), key=_by_numbers)]


def _by_numbers(path: Path) -> list[list[str | int]]:
    """What sorts a path: of each of its names text and numbers in turn."""
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(NUMBER.split(name))]
        for name in path.parts
    ]


def _finished(path: Path) -> list[Path]:
    summaries = [path / "summary.json", *path.rglob("*/summary.json")]
    folders = [file.parent for file in summaries if file.exists()]
    found = [folder for folder in folders if RunDirectory(folder).config.exists()]
    if found:
        return found
    raise RunError(
        str(path),
        expected="a run directory, or a folder of finished runs",
        got=_instead(path),
        remedy=_remedy(path),
    )


def _instead(path: Path) -> str:
    if not path.exists():
        return "nothing"
    return "unfinished runs only" if any(path.rglob("config.yaml")) else "no run"


def _remedy(path: Path) -> str:
    if path.exists():
        return "finish a run with --resume, or give another folder"
    siblings = [folder.name for folder in path.parent.glob("[!.]*") if folder.is_dir()]
    return nearest(path.name, siblings) if siblings else "check the path"


def _read(folder: Path) -> Run:
    run = RunDirectory(folder)
    return Run(
        path=folder,
        config=stored_values(run.config),
        environment=read_environment(run.environment),
        summary=read_summary(folder),
        records=tuple(read_records(folder)),
    )


def named_teacher(run: Run) -> str:
    """What a run calls its teacher, or else the knowledge store that it learnt from.

    Empty where neither says.
    """
    if not run.config.get("knowledge"):
        return str(run.config.get("teacher") or "")
    try:
        return read_manifest(Path(run.config["knowledge"]) / MANIFEST_NAME).teacher
    except SVDistillError:  # it is gone, or damaged
        return ""


def teacher_among(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run that trained a student's teacher; None where it is not among these runs.

    A teacher that was moved is known by its directory's name, unless several have it.
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
    """The name of a teacher's network, as far as the run leads to it; else nothing.

    One that was given as a Python object has no name.
    """
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
    except SVDistillError:  # it is nowhere, or damaged
        return ""
    return "" if name == OBJECT else name
