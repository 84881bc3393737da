"""The demo: a small network learns from a large one on images of digits, by several methods."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from svdistill.common import available_cores, require_count
from svdistill.config import DistillConfig, TrainConfig
from svdistill.paper.jobs import JobProcesses, JobResult, run_jobs
from svdistill.paper.presets import SOFT_TARGET
from svdistill.report import MethodRow, method_rows, plot_curves, run_table, write_report
from svdistill.runs import read_summary

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
    max_grad_norm=None,
    device="cpu",
)

# The student sees 100 labelled digits and its teacher 1,078, so the teacher has much to teach.
STUDENT = replace(TEACHER, network="mobilenet_student", train_size=100, epochs=40)

METHODS: dict[str, dict[str, Any]] = {
    "soft target": SOFT_TARGET,
    "FSP": {"loss": "fsp"},
    "SVD": {"loss": "svd"},
    "Gram of positions + DIST": {},  # the default of distill
}


def demo(
    output: str | Path = "runs/demo", *, seeds: int = 3, console: Console | None = None
) -> list[MethodRow]:
    """Train a teacher on digits, and a student alone and by several distillation methods.

    The methods are soft targets, FSP, SVD and the default of `svdistill distill`.

    Args:
        output: folder for the runs; if it exists, a number is added to its name.
        seeds: repetitions of every run with another seed; each seed has its own teacher.
        console: where table and progress are printed; nothing is printed by default.

    Returns:
        A row for each method: accuracy for each seed, parameters, FLOPs.

    Raises:
        ArgumentError: `seeds` is less than 1.
        RunError: the folder cannot be written.
        TrainingError: a run failed.
    """
    require_count("seeds", seeds)
    console = console or Console(quiet=True)
    folder = fresh_folder(Path(output))
    named = [("teacher", teacher_run(folder, seed)) for seed in range(seeds)]
    named += [run for seed in range(seeds) for run in student_runs(folder, seed)]
    with Progress(console=console, transient=True) as bar:
        line = bar.add_task("training small networks", total=len(named))

        def ended(result: JobResult) -> None:
            result.require_finished("see the message of the run")
            bar.advance(line)

        run_jobs([run for _, run in named], JobProcesses(available_cores()), ended=ended)
    rows = method_rows((method, read_summary(Path(run.output))) for method, run in named)
    title = f"Digits, {STUDENT.train_size} labels for the student"
    curves = ((method, run.output) for method, run in named)
    plot_curves(curves, folder / "curves.png", title)
    console.print(run_table(rows, f"{title}, {TEACHER.network} as teacher"))
    page = write_report([folder], folder / "report.html")
    console.print(f"runs: {folder}   page: {page}", highlight=False, soft_wrap=True)
    return rows


def teacher_run(folder: Path, seed: int) -> TrainConfig:
    """The configuration of the teacher with one seed."""
    return replace(TEACHER, output=str(folder / f"teacher-{seed}"), seed=seed)


def student_runs(folder: Path, seed: int) -> list[tuple[str, TrainConfig]]:
    """The configurations of the student with one seed: trained alone, and by every method."""
    alone = replace(STUDENT, output=str(folder / f"student-{seed}"), seed=seed)
    runs: list[tuple[str, TrainConfig]] = [("student alone", alone)]
    teacher = teacher_run(folder, seed).output
    for method, options in METHODS.items():
        name = method.lower().replace(" + ", "-").replace(" ", "-")
        shared = asdict(replace(alone, output=str(folder / f"{name}-{seed}")))
        runs.append((method, DistillConfig(**shared, teacher=teacher, **options)))
    return runs


def fresh_folder(wanted: Path) -> Path:
    """Return the folder or, if it exists, its name with the first number that is not taken."""
    if not wanted.exists():
        return wanted
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    return next(folder for folder in numbered if not folder.exists())
