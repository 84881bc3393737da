"""The experiment `domains`: a teacher of some classes, students of others, all labels or a tenth.

The losses read feature maps only, since the teacher's logits are of other classes. Students run
the teacher in every step: the stores of two sets of images would take as long to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from svdistill.config import DistillConfig, TrainConfig
from svdistill.paper.jobs import Job
from svdistill.paper.plan import plan
from svdistill.paper.presets import Method, Pair, Preset
from svdistill.training import load_data

DOMAINS: Final = "domains"

# The teacher's classes of CIFAR-100, and of digits; the students learn the others.
TEACHER_CLASSES: Final = "50@0"
TEACHER_DIGITS: Final = "5@0"

# Side of a student's images of another data set than its teacher's, as of CIFAR-100.
OTHER_DATA_SIZE: Final = 32

# One label in so many, seen so many times as often: as many steps.
FEWER: Final = 10


def domains_preset(preset: Preset, classes: str, teacher_data: str) -> Preset:
    """A preset whose teacher has other classes than its students.

    Args:
        preset: with the students' data.
        classes: `N@SEED`, the teacher's classes; empty for 50, or for 5 digits.
        teacher_data: the teacher's data, of which students learn nothing; empty for the students',
            who then learn the classes that the teacher does not.

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
