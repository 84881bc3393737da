"""Plan experiments: the jobs of each experiment, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from svdistill.common import require_choice
from svdistill.config import CacheConfig, DataConfig, DistillConfig, TrainConfig
from svdistill.data import resolved_place
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

# The classes of CIFAR-100 and of digits that the teacher learns in the experiment `domains`; the
# students learn the remaining classes.
TEACHER_CLASSES: Final = "50@0"
TEACHER_DIGITS: Final = "5@0"

# Side of the students' images in pixels if they are of another data set than the teacher's; that of
# CIFAR-100.
OTHER_DATA_SIZE: Final = 32

# Losses whose knowledge, with their default options, students share in one store.
STORED: Final = (SVD, POSITIONS["loss"], "position_gram")

# Parts of a store's name: for each option that differs from its default.
SHORT: Final = {"grid": "grid", "num_vectors": "k"}

# `domains` also trains students with one label in 10, for 10 times as many epochs: the number of
# steps is the same.
FEWER: Final = 10


def default_pairs(experiment: str, preset: Preset) -> tuple[str, ...]:
    """Names of the pairs of networks of an experiment, if the user gives none."""
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
    """Methods of an experiment for one pair, if the user gives none; the paper's methods first."""
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
        # The loss svd+soft_target, for example, is refused, since the method svd-soft-target has
        # other weights than the loss has by default.
        if not is_loss or name.replace("_", "-").replace("+", "-") in known:
            require_choice("method", name, known)
    methods = [method for name, method in known.items() if name in names]
    return (*methods, *(method_of_loss(name) for name in names if name not in known))


def plan(rows: Sequence[tuple[Pair, Sequence[Method]]], preset: Preset, root: Path) -> list[Job]:
    """List the jobs of an experiment in the order in which they are run.

    Each teacher comes before its knowledge stores and students, and all runs with the first seed
    come before any run with the second seed. Each run and each knowledge store is listed once.

    Args:
        rows: pairs of networks, each with its methods.
        preset: the settings of the runs.
        root: the folder for all runs and stores.
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
    )


def _is_cached(method: Method, preset: Preset) -> bool:
    """Whether students read a knowledge store; whole feature maps or many vectors are too large."""
    options = method.options
    if not preset.views or not method.needs_teacher or "teacher_taps" in options:
        return False
    if not is_compact(options["loss"], options):
        return False
    on_maps = [spec for spec in loss_specs(options["loss"]) if "taps" in spec.needs]
    if len(on_maps) > 1:  # only the store that students share holds the knowledge of several
        default_svd = preset.store_vectors == loss_specs(SVD)[0].options["num_vectors"]
        return all(s.name in STORED and (default_svd or s.name != SVD) for s in on_maps)
    spec = _loss_on_maps(method)
    if "num_vectors" not in spec.options:
        return True
    most = preset.store_vectors if spec.name == SVD else spec.options["num_vectors"]
    return options.get("num_vectors", 1) <= most and not options.get("grid")


def _loss_on_maps(method: Method) -> LossSpec:
    """The loss on feature maps whose knowledge a method's store keeps, beside the logits.

    A loss that reads only logits uses the store of the default, `position_gram`.
    """
    specs = loss_specs(method.options["loss"])
    return next((s for s in specs if "taps" in s.needs), loss_specs("position_gram")[0])


def _store(pair: Pair, method: Method, preset: Preset, root: Path) -> CacheConfig:
    """The knowledge store that students share: logits, and vectors or Gram matrices of each tap.

    One store, made in one pass of the teacher, serves all losses in `STORED` with their default
    options; other losses and options have stores of their own.
    """
    teacher, student, spec = _teacher(pair, preset, root), preset.student, _loss_on_maps(method)
    assert teacher.precision != "fp16"
    stored = loss_specs(spec.stored_as or spec.name)[0]
    vectors = preset.store_vectors if stored.name == SVD else stored.options.get("num_vectors")
    asked = {"grid": method.options.get("grid", spec.options.get("grid")), "num_vectors": vectors}
    own: dict[str, Any] = {
        name: value for name, value in asked.items() if value != stored.options.get(name)
    }
    losses: tuple[str, ...] = STORED
    kind = ""
    if own or stored.name not in STORED:
        losses = (stored.name,)
        kind = f"-{stored.name}" + "".join(f"-{SHORT[name]}{own[name]}" for name in own)
    images = {f.name: getattr(student, f.name) for f in fields(DataConfig)}
    name = f"{Path(teacher.output).name}{kind.replace('_', '-')}{_suffix(student)}"
    return CacheConfig(
        **{**images, "output": str(root / "stores" / name)},
        teacher=teacher.output,
        views=preset.views,
        views_seed=student.views_seed or 0,
        loss="+".join((*losses, str(SOFT_TARGET["loss"]))),
        **own,
        precision=teacher.precision,
        device=student.device,
    )


def _suffix(images: DataConfig) -> str:
    """The suffix of folder names: "-search" for runs that hold out images to choose settings on."""
    return "-search" if images.dev_fraction else ""


def _student(pair: Pair, method: Method, seed: int, preset: Preset, root: Path) -> TrainConfig:
    folder = pair.student.removesuffix("_student").replace("_", "-") + _suffix(preset.student)
    alone = replace(
        preset.student,
        network=pair.student,
        seed=seed,
        views=preset.views,
        output=str(root / folder / f"{method.name}-{seed}"),
    )
    if not method.needs_teacher:
        return alone
    options = dict(method.options)
    if method.stages == 2:
        options["transfer_epochs"] = preset.transfer_epochs
    if _is_cached(method, preset):
        alone = replace(alone, views=0, views_seed=None)  # the store determines the views
        options["knowledge"] = _store(pair, method, preset, root).output
    else:
        options["teacher"] = _teacher(pair, preset, root).output
    return DistillConfig(**asdict(alone), **options)


def domains_preset(preset: Preset, classes: str, teacher_data: str) -> Preset:
    """Adapt a preset to `domains`, where the teacher learns other classes than its students.

    The losses should read feature maps only, since the teacher's logits are of other classes.
    Students run the teacher in every step: making stores for both sets of images takes as long.
    Half of the classes are more images than a preset with every fifth class has: the epochs are
    fewer in proportion, so that there are as many steps.

    Args:
        preset: the preset to adapt.
        classes: the teacher's classes; empty for 50 classes, or 5 if the data are digits.
        teacher_data: the teacher's data set; empty for the students' data set, of which they then
            learn the classes that the teacher does not.

    Example:
        >>> from svdistill.paper.presets import PRESETS
        >>> preset = domains_preset(PRESETS["mini"], "", "")
        >>> preset.teacher.classes, preset.student.classes
        ('50@0', 'rest:50@0')
        >>> preset.teacher.epochs, PRESETS["mini"].teacher.epochs
        (32, 80)
    """
    own = not teacher_data or resolved_place(teacher_data) == resolved_place(preset.student.data)
    data = preset.student.data if own else teacher_data
    drawn = classes or (TEACHER_DIGITS if data == "digits" else TEACHER_CLASSES)
    students: dict[str, Any] = {"classes": f"rest:{drawn}"}
    if not own:
        students = {"classes": None, "image_size": OTHER_DATA_SIZE}
    times = max(1.0, preset.student.classes_every / 2)

    def shorter(epochs: int) -> int:
        return round(epochs / times)

    teacher, student = preset.teacher, preset.student
    return replace(
        preset,
        teacher=replace(
            teacher, data=data, classes=drawn, classes_every=1, epochs=shorter(teacher.epochs)
        ),
        student=replace(student, classes_every=1, epochs=shorter(student.epochs), **students),
        transfer_epochs=shorter(preset.transfer_epochs),
        views=0,
    )


def plan_domains(
    rows: Sequence[tuple[Pair, Sequence[Method]]], preset: Preset, root: Path
) -> list[Job]:
    """List the jobs of `domains`, as `plan` does; students learn from all labels and from a tenth.

    Teachers are written to `root/domains`, students to its subfolders `PAIR` and `PAIR-tenth`; if
    the students have another data set than the teacher, to `PAIR-DATA` and `PAIR-DATA-tenth`.
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
