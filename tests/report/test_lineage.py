from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import made_run, written
from svdistill.report.runs import Run, named_teacher, teacher_among, teacher_network

TEACHER = made_run("runs/teacher", "timm:resnet18")


def student(teacher: str, **options: object) -> Run:
    return made_run("runs/student", loss="svd", teacher=teacher, **options)


@pytest.mark.parametrize(
    ("teacher", "found"),
    [("runs/teacher", True), ("/moved/teacher", True), ("runs/other", False), ("", False)],
)
def test_a_teacher_is_found_by_its_place_or_else_its_name(teacher: str, found: bool) -> None:
    assert (teacher_among(student(teacher), [TEACHER, student("x")]) is TEACHER) == found


def test_of_two_teachers_of_one_name_neither_is_guessed(tmp_path: Path) -> None:
    teachers = [replace(TEACHER, path=tmp_path / name / "teacher") for name in "ab"]
    assert teacher_among(student("gone/teacher"), teachers) is None
    teachers[0].path.mkdir(parents=True)
    assert teacher_among(student(str(teachers[0].path)), teachers) is teachers[0]


def test_a_store_that_is_gone_names_no_teacher() -> None:
    assert named_teacher(student("", knowledge="stores/gone")) == ""


def test_a_teachers_network_is_named_as_far_as_it_is_known(distilled: Run, tmp_path: Path) -> None:
    assert teacher_network(distilled) == "mobilenet_teacher"
    weights = distilled.path.parent / "teacher" / "student.safetensors"
    assert teacher_network(student(str(weights))) == "mobilenet_teacher"
    without_weights = written(made_run(str(tmp_path / "teacher"), "timm:resnet18"))
    assert teacher_network(student(str(without_weights))) == "timm:resnet18"
    for name in ("timm:resnet34", "package.module:network"):
        assert teacher_network(student(name)) == name
    for unknown in ("", "object", "gone"):
        assert teacher_network(student(unknown)) == ""
