"""The settings by which the rows of a comparison differ, and how rows' names mention them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from svdistill.common import counted
from svdistill.config import TrainConfig
from svdistill.report.runs import (
    Run,
    class_choice,
    dataset_name,
    named_teacher,
    row_name,
    teacher_among,
)
from svdistill.store import IN_BF16

# Settings in which comparable runs may differ: they do not change what is learned, or distinguish
# the runs of a row, or name the data.
UNLIKE: Final = (
    *("output", "seed", "resume", "device", "capture", "deterministic", "checkpoint_minutes"),
    *("memory_limit_gb", "workers", "data", "classes_every", "classes", "unlabelled"),
    # Students that read a knowledge store use the store's views and do not set these.
    *("views", "views_seed"),
)

# All other settings of training, with their defaults. Two rows can be compared only if they agree
# in all of these.
TRAINING: Final = {
    field.name: None if field.default is MISSING else field.default
    for field in fields(TrainConfig)
    if field.name not in UNLIKE
}

# How a row's name mentions a setting; a setting that is not listed appears as option and value.
TEXTS: Final = {
    "network": "{}",
    "weights": "from {}",
    "epochs": "{} epochs",
    "batch_size": "batches of {}",
    "train_size": "{} training images",
    "dev_fraction": "{} held out",
    "optimizer": "{}",
    "image_size": "{} pixels",
    "max_grad_norm": "gradient norm at most {}",
    "precision": "{}",
    "warmup_epochs": "{} epochs of warm-up",
    "mix": "{}",
    "mix_alpha": "its alpha {}",
    "ema": "weights averaged with {}",
}

# The same for the fields of `Teaching`, the teacher excepted.
TEACHING_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "transfer_epochs": "{} epochs of transfer".format,
    "clip_interval": "clip measured every {} steps".format,
    "precision": "teacher in {}".format,
    "taps": lambda taps: f"teacher's taps {taps}" if taps else "",
    "views": lambda views: counted(views, "view") if views else "new views in every epoch",
    "unlabelled": "unlabelled: {}".format,
    "images": "images {:.6}".format,
}

SAME_ACCURACY: Final = 0.5  # percentage points; other machines classify a few images differently


class Teacher(NamedTuple):
    """A run's teacher: what identifies it, and its accuracy on the run's images; None if unknown.

    The key is that of `teacher_keys`.
    """

    key: Hashable = None
    accuracy: float | None = None


class Teaching(NamedTuple):
    """What else distinguishes the runs of different rows that have the same name and training.

    None stands for what is unknown, such as the views of a knowledge store that is gone, and for
    what does not apply. The views are those of `seen_views`.
    """

    transfer_epochs: int
    clip_interval: int | None
    precision: str | None
    taps: str | None
    views: int | None
    unlabelled: str | None
    images: str | None
    teacher: Teacher

    @property
    def unknown(self) -> int:
        """The number of unknown values."""
        return [*self, *self.teacher].count(None)


def training_values(run: Run) -> tuple[Any, ...]:
    """The values of the settings in `TRAINING`.

    Network and image size are the actual ones, which the configuration may leave open.
    """
    measured = {"network": run.summary.network, "image_size": run.summary.image_size}
    values = {**TRAINING, **run.config, **measured}
    return tuple(values[setting] or None for setting in TRAINING)


def teachings(runs: Sequence[Run], teachers: Sequence[Run]) -> dict[Path, Teaching]:
    """The `Teaching` of each run by its path; `teachers` are the runs that trained teachers."""
    keys = teacher_keys(runs, teachers)
    return {run.path: _teaching(run, keys.get(run.path)) for run in runs}


def teacher_keys(runs: Sequence[Run], teachers: Sequence[Run]) -> dict[Path, Hashable]:
    """What identifies the teacher of each distilled run, by the run's path; None if unknown.

    This is what the teacher's own run learned, except for its seed, or the digest of the teacher's
    weights if its run is not among `teachers`.
    """
    distilled = [run for run in runs if run.is_distilled]
    digests = {run.path: _teacher_digest(run) for run in distilled}
    found = {run.path: teacher_among(run, teachers) for run in distilled}
    learned = {path: _learned(teacher) for path, teacher in found.items() if teacher is not None}
    of_digests = {digests[path]: key for path, key in learned.items() if digests[path]}
    return {
        path: learned.get(path, of_digests.get(digest, digest)) for path, digest in digests.items()
    }


def _learned(teacher: Run) -> Hashable:
    config = teacher.config
    data = dataset_name(config), class_choice(config)
    return (*data, row_name(config), *training_values(teacher))


def _teacher_digest(run: Run) -> str | None:
    """The digest of the teacher's weights, of which a run with a store records another one."""
    if run.config.get("knowledge"):
        return None if run.store is None else run.store.teacher_sha256
    return run.environment.get("teacher_fingerprint")


def _teaching(run: Run, teacher: Hashable) -> Teaching:
    config = run.config
    live = run.is_distilled and not config.get("knowledge")
    transfer = config.get("transfer_epochs") or 0
    amortised = config.get("clip") == "amortised" and not transfer
    more = config.get("unlabelled")
    return Teaching(
        transfer_epochs=transfer,
        clip_interval=config.get("clip_interval") if amortised else None,
        precision=_teacher_precision(run) if run.is_distilled else None,
        taps=" ".join(config.get("teacher_taps") or []) if live else None,
        views=seen_views(run),
        unlabelled=dataset_name({"data": more}) if more else None,
        images=run.environment.get("data_fingerprint"),
        teacher=Teacher(teacher, run.summary.teacher_accuracy),
    )


def _teacher_precision(run: Run) -> str | None:
    if run.store is not None:
        return "bf16" if run.store.teacher.endswith(IN_BF16) else "float32"
    if run.config.get("knowledge"):
        return None
    return run.config.get("teacher_precision") or run.config.get("precision")


def seen_views(run: Run) -> int | None:
    """The number of views of each image; 0 if every epoch had its own, None if unknown."""
    if run.store is None and run.config.get("knowledge"):
        return None
    views = int(run.config.get("views") or 0) if run.store is None else run.store.views
    enough = views >= run.summary.epochs or run.config.get("augmentation") == "none"
    return 0 if enough else views


def same_accuracy(one: float | None, other: float | None) -> bool:
    """Whether two accuracies, as far as both are known, may be those of one network."""
    return one is None or other is None or abs(one - other) < SAME_ACCURACY


def _same_teacher(one: Teacher, other: Teacher) -> bool:
    if one.key is not None and other.key is not None:
        return one.key == other.key
    return same_accuracy(one.accuracy, other.accuracy)


def _agree(one: Teaching, other: Teaching) -> bool:
    """Whether two runs may be in one row: what is known of both is equal."""
    values = zip(one[:-1], other[:-1], strict=True)
    return _same_teacher(one.teacher, other.teacher) and all(
        None in pair or pair[0] == pair[1] for pair in values
    )


def by_teaching(runs: Sequence[Run], known: Mapping[Path, Teaching]) -> list[tuple[str, list[Run]]]:
    """Divide runs into those that agree in their `Teaching`, with text on how they differ.

    Args:
        runs: runs with the same name and training.
        known: the `Teaching` of each run by its path.
    """
    parts: list[list[Run]] = []
    # Those of which more is known first: the others then join the first part that fits.
    for run in sorted(runs, key=lambda run: known[run.path].unknown):
        fitting = (
            part
            for part in parts
            if all(_agree(known[run.path], known[other.path]) for other in part)
        )
        part = next(fitting, None)
        if part is None:
            parts.append([run])
        else:
            part.append(run)
    parts.sort(key=lambda part: min(map(runs.index, part)))
    return list(zip(_texts(parts, known), parts, strict=True))


def _texts(parts: Sequence[Sequence[Run]], known: Mapping[Path, Teaching]) -> list[str]:
    """For each part, text on the values in which it differs from another one."""
    first = [known[part[0].path] for part in parts]
    texts: list[list[str]] = [[] for _ in parts]
    for name, text in TEACHING_TEXTS.items():
        values = [getattr(one, name) for one in first]
        if len(set(values)) > 1:
            for of_part, value in zip(texts, values, strict=True):
                of_part.append("" if value is None else text(value))
    if not all(_same_teacher(first[0].teacher, one.teacher) for one in first):
        for of_part, text_of_teacher in zip(texts, _teacher_texts(parts, known), strict=True):
            of_part.append(text_of_teacher)
    return [", ".join(filter(None, of_part)) for of_part in texts]


def _teacher_texts(parts: Sequence[Sequence[Run]], known: Mapping[Path, Teaching]) -> list[str]:
    """Names of the parts' teachers: the accuracy, the directory or else a number."""
    teachers = [known[part[0].path].teacher for part in parts]
    places = [Path(named_teacher(part[0])).name for part in parts]
    keys = list(dict.fromkeys(one.key for one in teachers))
    accuracies = [
        "" if one.accuracy is None else f"teacher of {one.accuracy:.2f} %" for one in teachers
    ]
    named = [place and f"teacher {place}" for place in places]
    for texts in (accuracies, named):
        if len(set(texts)) >= len(set(teachers)):
            return texts
    return [f"teacher {1 + keys.index(one.key)}" for one in teachers]
