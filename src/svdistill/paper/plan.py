"""Experiments as lists of jobs, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from svdistill.common import require_choice
from svdistill.config import CacheConfig, DataConfig, DistillConfig, TrainConfig
from svdistill.losses import LossSpec, is_compact, loss_names, loss_specs
from svdistill.paper.jobs import Job
from svdistill.paper.presets import (
    ABLATION,
    ALONE,
    CORE,
    GRAM,
    METHODS,
    POSITIONS,
    RIVALS,
    SEARCH,
    SOFT_TARGET,
    STAGES,
    SVD,
    Method,
    Pair,
    Preset,
    every_method,
    find_pairs,
    method_of_loss,
    vector_methods,
)
from svdistill.training import load_data

DOMAINS: Final = "domains"

EXPERIMENTS: Final = (
    *("networks", "multitask", "dfv", "rivals", "search", "ablation", "large"),
    DOMAINS,
)

# The teacher's classes of CIFAR-100, and of digits; the students learn the others.
TEACHER_CLASSES: Final = "50@0"
TEACHER_DIGITS: Final = "5@0"

# Side of a student's images of another data set than its teacher's, as of CIFAR-100.
OTHER_DATA_SIZE: Final = 32

# One label in so many, seen so many times as often: as many steps.
FEWER: Final = 10


def default_pairs(experiment: str, preset: Preset) -> tuple[str, ...]:
    """Names of the pairs of an experiment, if none are given."""
    if experiment in ("networks", "rivals"):
        return preset.pairs
    if experiment in ("search", "ablation"):
        return ("vgg_stride",)
    if experiment in ("large", DOMAINS):
        return ("vgg",)
    counted = [pair.name for pair in find_pairs(preset.pairs) if pair.vectors]
    if experiment == "multitask":
        return tuple(counted)
    return tuple(name for name in counted if name in preset.in_full)


def default_methods(experiment: str, pair: Pair, preset: Preset) -> tuple[Method, ...]:
    """Methods of an experiment, if none are given; those of the paper's table first."""
    if experiment == "multitask":
        return (*(find_methods(preset.methods) or CORE), *STAGES)
    if experiment == "dfv":
        return (ALONE, *vector_methods())
    if experiment == "rivals":
        return (*find_methods(("student", "soft-target", "position-svd-soft-target")), *RIVALS)
    if experiment == "search":
        return SEARCH
    if experiment == "ablation":
        return (
            *find_methods(("student", "position-svd", "position-svd-soft-target")),
            GRAM,
            *ABLATION,
        )
    if experiment == "domains":
        return find_methods(
            ("student", "fsp-2-stage", "svd-amortised", "position-svd", "position-gram")
        )
    if preset.methods:
        return find_methods(preset.methods)
    return METHODS if pair.name in preset.in_full else CORE


def find_methods(names: tuple[str, ...]) -> tuple[Method, ...]:
    """Find methods by name; a loss, as `distill --loss` takes it, is also a method.

    Raises:
        ArgumentError: neither a method nor a loss has this name.

    Example:
        >>> find_methods(("svd-amortised-k4",))[0].options["num_vectors"]
        4
        >>> find_methods(("fsp+soft_target",))[0].options
        {'loss': 'fsp+soft_target'}
    """
    known = {method.name: method for method in every_method()}
    for name in names:
        is_loss = name in loss_names() or "+" in name or ":" in name
        # A method such as svd-soft-target has other weights than its loss by default.
        if not is_loss or name.replace("_", "-").replace("+", "-") in known:
            require_choice("method", name, known)
    methods = [method for name, method in known.items() if name in names]
    return (*methods, *(method_of_loss(name) for name in names if name not in known))


def plan(rows: Sequence[tuple[Pair, Sequence[Method]]], preset: Preset, root: Path) -> list[Job]:
    """List the jobs of an experiment in the order in which they are run.

    Each teacher comes before its stores and students, and the first seed of all runs before the
    second seed of any. Runs and knowledge stores are in the list once.
    """
    jobs: list[Job] = []
    for seed in range(preset.seeds):
        for pair, methods in rows:
            if any(method.needs_teacher for method in methods):
                jobs.append(_teacher(pair, preset, root))
            jobs += [_store(pair, m, preset, root) for m in methods if _is_cached(m, preset)]
            jobs += [_student(pair, method, seed, preset, root) for method in methods]
    return list({job.output: job.filled() for job in jobs}.values())


def _teacher(pair: Pair, preset: Preset, root: Path) -> TrainConfig:
    return replace(
        preset.teacher,
        network=pair.teacher,
        output=str(root / pair.teacher.replace("_", "-")),
        precision=_precision(pair.teacher, preset),
    )


def _precision(network: str, preset: Preset) -> Literal["float32", "bf16"]:
    return "bf16" if network in preset.bf16 else "float32"


def _is_cached(method: Method, preset: Preset) -> bool:
    """Whether students read a store: whole maps and many vectors take too much disk."""
    options = method.options
    if not preset.views or not method.needs_teacher or "teacher_taps" in options:
        return False
    if not is_compact(options["loss"], options):
        return False
    stored = _stored_loss(method)
    if "num_vectors" not in stored.options:
        return True
    most = preset.store_vectors if stored.name == SVD else POSITIONS["num_vectors"]
    return options.get("num_vectors", 1) <= most and not _grid(method)


def _stored_loss(method: Method) -> LossSpec:
    """The loss whose knowledge a method's store keeps, beside the logits.

    A loss that reads logits alone reads them from the default's store, the smallest.
    """
    specs = loss_specs(method.options["loss"])
    name = next((s.stored_as or s.name for s in specs if "taps" in s.needs), "position_gram")
    return loss_specs(name)[0]


def _grid(method: Method) -> int:
    grid: int = method.options.get("grid", _stored_loss(method).options.get("grid", 0))
    return grid


def _store(pair: Pair, method: Method, preset: Preset, root: Path) -> CacheConfig:
    """A store that all students share: logits, and vectors or Gram matrices of each tap."""
    teacher, student = _teacher(pair, preset, root), preset.student
    assert teacher.precision != "fp16"
    stored, grid = _stored_loss(method), _grid(method)
    options: dict[str, Any] = {"grid": grid}
    kind = f"-{stored.name}-grid{grid}".replace("_", "-")
    if stored.name == SVD:
        kind, options = "", {"num_vectors": preset.store_vectors if pair.vectors else 1}
    elif stored.name == POSITIONS["loss"]:
        kind, options = "-positions", {"num_vectors": POSITIONS["num_vectors"]}
    images = {f.name: getattr(student, f.name) for f in fields(DataConfig)}
    name = f"{Path(teacher.output).name}{kind}{_suffix(student)}"
    return CacheConfig(
        **{**images, "output": str(root / "stores" / name)},
        teacher=teacher.output,
        views=preset.views,
        views_seed=student.views_seed or 0,
        loss=f"{stored.name}+{SOFT_TARGET['loss']}",
        **options,
        precision=teacher.precision,
        device=student.device,
    )


def _suffix(images: DataConfig) -> str:
    """Runs that hold out images to choose by lie beside those that learn from all."""
    return "-search" if images.dev_fraction else ""


def _student(pair: Pair, method: Method, seed: int, preset: Preset, root: Path) -> TrainConfig:
    folder = pair.student.removesuffix("_student").replace("_", "-") + _suffix(preset.student)
    alone = replace(
        preset.student,
        network=pair.student,
        seed=seed,
        views=preset.views,
        output=str(root / folder / f"{method.name}-{seed}"),
        precision=_precision(pair.student, preset),
    )
    if not method.needs_teacher:
        return alone
    options = dict(method.options)
    if method.stages == 2:
        options["transfer_epochs"] = preset.transfer_epochs
    if _is_cached(method, preset):
        alone = replace(alone, views=0, views_seed=None)  # those of the store
        options["knowledge"] = _store(pair, method, preset, root).output
    else:
        options["teacher"] = _teacher(pair, preset, root).output
    return DistillConfig(**asdict(alone), **options)


def domains_preset(preset: Preset, classes: str, teacher_data: str) -> Preset:
    """A preset of `domains`, whose teacher has other classes than its students.

    The losses read feature maps only, since the teacher's logits are of other classes. Students run
    the teacher in every step: the stores of two sets of images would take as long to make.

    Without `classes` the teacher's are 50, or 5 digits. Without `teacher_data` its images are the
    students', who then learn the classes that the teacher does not.

    Example:
        >>> from svdistill.paper.presets import PRESETS
        >>> preset = domains_preset(PRESETS["mini"], "", "")
        >>> preset.teacher.classes, preset.student.classes
        ('50@0', 'rest:50@0')
    """
    data = teacher_data or preset.student.data
    drawn = classes or (TEACHER_DIGITS if data == "digits" else TEACHER_CLASSES)
    students: dict[str, Any] = {"classes": f"rest:{drawn}"}
    if data != preset.student.data:
        students = {"classes": None, "image_size": OTHER_DATA_SIZE}
    return replace(
        preset,
        teacher=replace(preset.teacher, data=data, classes=drawn, classes_every=1),
        student=replace(preset.student, classes_every=1, **students),
        views=0,
    )


def plan_domains(
    rows: Sequence[tuple[Pair, Sequence[Method]]], preset: Preset, root: Path
) -> list[Job]:
    """List the jobs: see `plan`. Each student is trained with all labels, and with a tenth.

    Teachers lie in `root/domains`, students in `PAIR` and `PAIR-tenth` there, or, of other data
    than the teacher's, in `PAIR-DATA` and `PAIR-DATA-tenth`.
    """
    labels = len(load_data(preset.student).train) // FEWER
    other = f"-{Path(preset.student.data).name}" * (preset.student.data != preset.teacher.data)
    jobs: list[Job] = []
    for job in plan(rows, preset, root / "domains"):
        assert isinstance(job, TrainConfig)  # there are no stores
        if job.classes == preset.teacher.classes:
            jobs.append(job)
            continue
        folder, name = Path(job.output).parent, Path(job.output).name
        tenth = replace(job, train_size=labels, epochs=FEWER * job.epochs)
        if isinstance(tenth, DistillConfig):
            tenth.transfer_epochs *= FEWER
        jobs.append(replace(job, output=f"{folder}{other}/{name}"))
        jobs.append(replace(tenth, output=f"{folder}{other}-tenth/{name}"))
    return jobs
