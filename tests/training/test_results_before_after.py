import copy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from svdistill.common import RunError, write_json
from svdistill.networks import build_network
from svdistill.training.results import measure_before_after, read_before_after

SHAPE = (3, 16, 16)
ACCURACIES = (90.0, 10.0, 80.0)  # of the teacher, and of the student before and after


@pytest.fixture(scope="module", autouse=True)
def short_timings() -> None:
    """Nothing: here as many rounds are timed as by default."""


def test_costs_are_each_networks_own() -> None:
    teacher = build_network("vgg_teacher", 10, width=0.25)
    student = build_network("vgg_student", 10, width=0.25)
    measured = measure_before_after(teacher, student, SHAPE, ACCURACIES, 100)
    assert measured.teacher is not None
    assert measured.after.parameters == sum(p.numel() for p in student.parameters())
    assert measured.teacher.flops > measured.after.flops > 0
    assert measured.teacher.milliseconds > measured.after.milliseconds > 0
    assert measured.after.bytes == 4 * measured.after.parameters  # no buffers, float32
    assert measured.before == measured.after.__class__(
        10.0,
        *(getattr(measured.after, name) for name in ("parameters", "flops", "bytes")),
        measured.after.milliseconds,
    )


def test_the_networks_are_left_as_they_were() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    student[2].eval()
    before = copy.deepcopy(student.state_dict())
    modes = [module.training for module in student.modules()]
    measured = measure_before_after(None, student, SHAPE, ACCURACIES, 100)
    assert measured.teacher is None
    assert modes == [module.training for module in student.modules()]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_it_comes_back_from_the_file(tmp_path: Path) -> None:
    student = build_network("vgg_student", 10, width=0.25)
    measured = measure_before_after(student, copy.deepcopy(student), SHAPE, ACCURACIES, 100)
    assert read_before_after(tmp_path) is None
    write_json(tmp_path / "before_after.json", asdict(measured))
    assert read_before_after(tmp_path) == measured


@pytest.mark.parametrize("text", ["{", "[]", '{"teacher": null}', '{"teacher": 1, "before": {}}'])
def test_a_damaged_file_is_a_run_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "before_after.json").write_text(text)
    with pytest.raises(RunError, match="before_after"):
        read_before_after(tmp_path)
