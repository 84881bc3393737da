"""A first look: a small network made better by a big one, on digits, beside the method's rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from svdistill.common import available_cores, keep_memory, require_count
from svdistill.config import DistillConfig, TrainConfig
from svdistill.paper.presets import SOFT_TARGET
from svdistill.report import MethodRow, method_rows, plot_curves, run_table, write_report
from svdistill.runs import RunSummary
from svdistill.training import distill, train

Run = tuple[str, TrainConfig]


TEACHER = TrainConfig(
    output="",
    data="digits",
    network="mobilenet_teacher",
    width=0.25,
    augmentation="crop_flip",
    epochs=30,
    batch_size=64,
    learning_rate=0.05,
    weight_decay=5e-4,
    schedule="one_cycle",
    device="cpu",
)

# The student sees 100 labelled digits where its teacher saw 1,078, and for 80 steps only: that is
# its room to learn.
STUDENT = replace(TEACHER, network="mobilenet_student", train_size=100, epochs=40)

METHODS: dict[str, dict[str, Any]] = {
    "soft target": SOFT_TARGET,
    "FSP": {"loss": "fsp"},
    "SVD": {"loss": "svd"},
    "position SVD + soft target": {"loss": "position_svd+soft_target"},  # what distill does unasked
}


def demo(
    output: str | Path = "runs/demo", *, seeds: int = 3, console: Console | None = None
) -> list[MethodRow]:
    """Train a teacher on digits, and its student alone, by soft target, FSP, SVD and the default.

    Args:
        output: folder for the runs; where it exists, a number is added.
        seeds: repetitions of everything, each with a teacher of its own.
        console: where table and progress go; nowhere by default.

    Returns:
        A row for each method: accuracies over the seeds, parameters, FLOPs.

    Raises:
        ArgumentError: seeds below 1.
        RunError: the folder cannot be written.
    """
    require_count("seeds", seeds)
    console = console or Console(quiet=True)
    folder = fresh_folder(Path(output))
    teachers = [teacher_run(folder, seed) for seed in range(seeds)]
    students = [run for seed in range(seeds) for run in student_runs(folder, seed)]
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("training small networks", total=len(teachers) + len(students))
        finished = []
        for group in (teachers, students):
            finished += run_all(group, lambda: bar.advance(task))
    rows = method_rows(finished)
    figure = folder / "curves.png"
    curves = ((method, summary.directory) for method, summary in finished)
    plot_curves(curves, figure, f"Digits, {STUDENT.train_size} labels for the student")
    title = f"Digits, {STUDENT.train_size} labels for the student, {TEACHER.network} as teacher"
    console.print(run_table(rows, title))
    page = write_report([folder], folder / "report.html")
    console.print(f"runs: {folder}   page: {page}", highlight=False, soft_wrap=True)
    return rows


def teacher_run(folder: Path, seed: int) -> Run:
    """The teacher of one seed."""
    return "teacher", replace(TEACHER, output=str(folder / f"teacher-{seed}"), seed=seed)


def student_runs(folder: Path, seed: int) -> list[Run]:
    """The student of one seed: alone, and by every method."""
    alone = replace(STUDENT, output=str(folder / f"student-{seed}"), seed=seed)
    runs: list[Run] = [("student alone", alone)]
    teacher = teacher_run(folder, seed)[1].output
    for method, options in METHODS.items():
        name = method.lower().replace(" + ", "-").replace(" ", "-")
        shared = asdict(replace(alone, output=str(folder / f"{name}-{seed}")))
        runs.append((method, DistillConfig(**shared, teacher=teacher, **options)))
    return runs


def run_all(runs: list[Run], done: Callable[[], None]) -> list[tuple[str, RunSummary]]:
    """Run several small networks at once, one thread each, and return them in their order."""
    workers = min(len(runs), available_cores())
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(_run, config) for _, config in runs]
        for _ in as_completed(futures):
            done()
        return [
            (method, future.result()) for (method, _), future in zip(runs, futures, strict=True)
        ]


def fresh_folder(wanted: Path) -> Path:
    """The folder itself, or, where it exists, its name with the first free number."""
    if not wanted.exists():
        return wanted
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    return next(folder for folder in numbered if not folder.exists())


def _one_thread() -> None:
    torch.set_num_threads(1)
    keep_memory()
    warnings.simplefilter("ignore", category=FutureWarning)


def _run(config: TrainConfig) -> RunSummary:
    return distill(config) if isinstance(config, DistillConfig) else train(config)
