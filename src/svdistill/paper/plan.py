"""Experiments as lists of runs, and which of them are finished."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, Literal

from svdistill.common import RunError, require_choice
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.losses import LossSpec, loss_names, loss_specs
from svdistill.paper.presets import (
    ALONE,
    CORE,
    METHODS,
    POSITIONS,
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
from svdistill.runs import MAY_DIFFER, RunDirectory, read_environment, stored_values
from svdistill.store import MANIFEST_NAME, read_manifest

Task = TrainConfig | CacheConfig

EXPERIMENTS: Final = ("networks", "multitask", "dfv", "large")


def default_pairs(experiment: str, preset: Preset) -> tuple[str, ...]:
    """Names of the pairs that an experiment is about, unless others are asked for."""
    if experiment == "networks":
        return preset.pairs
    if experiment == "large":
        return ("vgg",)
    counted = [pair.name for pair in find_pairs(preset.pairs) if pair.vectors]
    if experiment == "multitask":
        return tuple(counted)
    return tuple(name for name in counted if name in preset.in_full)


def default_methods(experiment: str, pair: Pair, preset: Preset) -> tuple[Method, ...]:
    """The rows of an experiment, unless others are asked for; those of the paper's table first."""
    if experiment == "multitask":
        return (*(find_methods(preset.methods) or CORE), *STAGES)
    if experiment == "dfv":
        return (ALONE, *vector_methods())
    if preset.methods:
        return find_methods(preset.methods)
    return METHODS if pair.name in preset.in_full else CORE


def find_methods(names: tuple[str, ...]) -> tuple[Method, ...]:
    """The methods of these names; a loss, as `distill --loss` takes it, is one by its own name.

    Raises:
        ArgumentError: a name that neither a method nor a loss has.

    Example:
        >>> find_methods(("svd-amortised-k4",))[0].options["num_vectors"]
        4
        >>> find_methods(("fsp+soft_target",))[0].options
        {'loss': 'fsp+soft_target'}
    """
    known = {method.name: method for method in every_method()}
    for name in names:
        is_loss = name in loss_names() or "+" in name or ":" in name
        # A method of that loss, such as svd-soft-target, has a name and weights of its own.
        if not is_loss or name.replace("_", "-").replace("+", "-") in known:
            require_choice("method", name, known)
    methods = [method for name, method in known.items() if name in names]
    return (*methods, *(method_of_loss(name) for name in names if name not in known))


def plan(rows: Sequence[tuple[Pair, Sequence[Method]]], preset: Preset, root: Path) -> list[Task]:
    """The runs of an experiment, in the order in which they are best made.

    Each teacher comes before what is taken from it, and one seed of everything before the second
    seed of anything.

    Args:
        rows: the pairs of networks, and the methods for each.
        preset: how long, how wide, on what, and how many seeds.
        root: folder for all runs.

    Returns:
        Configurations of runs and of knowledge stores, each once.
    """
    tasks: list[Task] = []
    for seed in range(preset.seeds):
        for pair, methods in rows:
            if any(method.needs_teacher for method in methods):
                tasks.append(_teacher(pair, preset, root))
            stores = [_store(pair, m, preset, root) for m in methods if _is_cached(m, preset)]
            tasks += stores
            tasks += [_student(pair, method, seed, preset, root) for method in methods]
    return list({task.output: task for task in tasks}.values())


def _teacher(pair: Pair, preset: Preset, root: Path) -> TrainConfig:
    name = pair.teacher.replace("_", "-")
    return replace(
        preset.teacher,
        network=pair.teacher,
        epochs=preset.teacher_epochs.get(pair.teacher, preset.teacher.epochs),
        output=str(root / name),
        precision=_precision(pair.teacher, preset),
    )


def _precision(network: str, preset: Preset) -> Literal["float32", "bf16"]:
    return "bf16" if network in preset.bf16 else "float32"


def _is_cached(method: Method, preset: Preset) -> bool:
    """Whether a store is read: FSP's matrices and many vectors take too much disk."""
    if not preset.views or not method.needs_teacher:
        return False
    if not all(spec.compact for spec in loss_specs(method.options["loss"])):
        return False
    of_positions = _stored_loss(method).name == POSITIONS["loss"]
    return of_positions or method.options.get("num_vectors", 1) <= preset.store_vectors


def _stored_loss(method: Method) -> LossSpec:
    """The loss whose vectors the store of a method keeps; SVD's where it reads logits alone."""
    (svd,) = loss_specs(SVD)
    specs = loss_specs(method.options["loss"])
    return next((spec for spec in specs if "num_vectors" in spec.options), svd)


def _store(pair: Pair, method: Method, preset: Preset, root: Path) -> CacheConfig:
    """All that a teacher's students need of it: its logits, and the most vectors of one side."""
    teacher, student = _teacher(pair, preset, root), preset.student
    assert teacher.precision != "fp16"
    stored = _stored_loss(method).name
    of_positions = stored == POSITIONS["loss"]
    name = Path(teacher.output).name
    vectors = preset.store_vectors if pair.vectors else 1
    return CacheConfig(
        output=str(root / "stores" / (f"{name}-positions" if of_positions else name)),
        teacher=teacher.output,
        data=student.data,
        image_size=student.image_size,
        classes_every=student.classes_every,
        classes=student.classes,
        train_size=student.train_size,
        dev_fraction=student.dev_fraction,
        augmentation=student.augmentation,
        views=preset.views,
        views_seed=student.views_seed or 0,
        loss=f"{stored}+{SOFT_TARGET['loss']}",
        num_vectors=POSITIONS["num_vectors"] if of_positions else vectors,
        precision=teacher.precision,
        device=student.device,
    )


def _student(pair: Pair, method: Method, seed: int, preset: Preset, root: Path) -> TrainConfig:
    folder = pair.student.removesuffix("_student").replace("_", "-")
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
        alone = replace(alone, views=0, views_seed=None)  # the store says which
        options["knowledge"] = _store(pair, method, preset, root).output
    else:
        options["teacher"] = _teacher(pair, preset, root).output
    return DistillConfig(**asdict(alone), **options)


def needs(task: Task) -> set[str]:
    """The folders that must be finished before a run can begin."""
    taken = (getattr(task, name, "") for name in ("teacher", "knowledge"))
    return {place for place in taken if place}


# Where things lie, and how a machine is used: the same run may have been made elsewhere.
PLACES: Final = (*MAY_DIFFER, "data", "teacher", "knowledge")


def unfinished(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that are still to be done.

    A knowledge store is to be done only where one of its students is.

    Raises:
        RunError: a run of other options lies in the place of one of them.
    """
    left = [task for task in tasks if not isinstance(task, CacheConfig) and not is_finished(task)]
    wanted = {getattr(task, "knowledge", "") for task in left}
    stores = [task for task in tasks if isinstance(task, CacheConfig) and task.output in wanted]
    missing = [task for task in stores if not _is_whole(task)]
    return [task for task in tasks if task in left or task in missing]


def delete_unneeded_stores(tasks: Sequence[Task]) -> None:
    """Delete the knowledge stores of these tasks whose students are all finished."""
    left = {task.output for task in unfinished(tasks)}
    wanted = {getattr(task, "knowledge", "") for task in tasks if task.output in left}
    for task in tasks:
        if isinstance(task, CacheConfig) and task.output not in wanted:
            shutil.rmtree(task.output, ignore_errors=True)


def is_finished(task: Task) -> bool:
    """Whether a run is finished.

    Raises:
        RunError: a run of other options lies in its place.
    """
    run = RunDirectory(task.output)
    if not run.config.exists():
        return False
    stored = stored_values(run.config)
    for name, asked in asdict(task).items():
        if name not in PLACES and stored.get(name, asked) != asked:
            raise RunError(
                str(run.path),
                expected=f"a run with {name} {asked!r}, as the preset has it",
                got=repr(stored[name]),
                remedy="choose another --output, or remove that run",
            )
    return run.summary.exists()


def require_images(task: Task, fingerprint: str) -> None:
    """Raise `RunError` if a run was begun with other images than those of this fingerprint."""
    environment = RunDirectory(task.output).environment
    if (
        environment.exists()
        and read_environment(environment).get("data_fingerprint") != fingerprint
    ):
        raise RunError(
            task.output,
            expected="a run on the images that --data names",
            got="one on others",
            remedy="choose another --output, or the data that it was made with",
        )


def _is_whole(store: CacheConfig) -> bool:
    manifest = Path(store.output) / MANIFEST_NAME
    return manifest.exists() and read_manifest(manifest).complete
