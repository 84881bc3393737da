from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from svdistill.cli import main
from svdistill.config import DistillConfig, TrainConfig
from svdistill.losses import losses_without_logits
from svdistill.paper import ReproduceConfig, reproduce
from svdistill.paper.jobs import Job, job_images, needs
from svdistill.paper.plan import default_methods, domains_preset, find_methods, plan_domains
from svdistill.paper.presets import PAIRS, PRESETS

SMOKE = replace(domains_preset(PRESETS["smoke"], "", ""), seeds=2)


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return plan_domains([(PAIRS[0], default_methods("domains", PAIRS[0], SMOKE))], SMOKE, Path("r"))


def test_students_learn_the_classes_that_their_teacher_does_not(jobs: list[Job]) -> None:
    images = job_images(jobs)
    teachers = [job for job in jobs if job.classes == "5@0"]
    assert [job.output for job in teachers] == ["r/domains/vgg-teacher"]
    learnt = set(images[teachers[0].output].class_names)
    for job in jobs[1:]:
        assert learnt | set(images[job.output].class_names) == set("0123456789")
        assert not learnt & set(images[job.output].class_names)
    assert len({id(data) for data in images.values()}) == 3


def test_a_student_of_a_tenth_of_the_labels_makes_as_many_steps(jobs: list[Job]) -> None:
    by_output = {job.output: job for job in jobs}
    for job in jobs[1:]:
        assert isinstance(job, TrainConfig)
        job.check()
        if "-tenth/" in job.output:
            whole = by_output[job.output.replace("-tenth", "")]
            assert isinstance(whole, TrainConfig)
            assert (job.train_size, job.epochs) == (20, 10 * whole.epochs)
            for name in ("transfer_epochs", "loss", "teacher"):
                scale = 10 if name == "transfer_epochs" else 1
                assert getattr(job, name, 0) == scale * getattr(whole, name, 0)
        if isinstance(job, DistillConfig):
            assert set(job.loss.split("+")) <= set(losses_without_logits())
            assert needs(job) == {"r/domains/vgg-teacher"}
    assert len(by_output) == len(jobs) == 1 + 2 * 2 * 5


def test_half_of_the_classes_take_as_many_steps_as_the_preset() -> None:
    for name, classes in (("mini", 20), ("full", 50)):
        preset = PRESETS[name]
        adapted = domains_preset(preset, "", "")
        assert adapted.student.epochs * 50 == pytest.approx(
            preset.student.epochs * classes, rel=0.05
        )
        assert adapted.teacher.epochs * 50 == pytest.approx(
            preset.teacher.epochs * classes, rel=0.05
        )


def test_the_first_seed_of_all_comes_first(jobs: list[Job]) -> None:
    seeds = [job.seed for job in jobs if isinstance(job, TrainConfig)]
    assert seeds == sorted(seeds)


def test_a_teacher_of_other_data_is_shared_and_its_students_apart() -> None:
    mini = replace(PRESETS["mini"], student=replace(PRESETS["mini"].student, data="digits"))
    rows = [(PAIRS[0], find_methods(("position-svd",)))]
    preset = replace(domains_preset(mini, "", "parquet:data/cifar100"), seeds=1)
    teacher, student, tenth = plan_domains(rows, preset, Path("r"))
    assert (teacher.data, teacher.classes) == ("parquet:data/cifar100", "50@0")
    assert (student.data, student.classes, student.image_size) == ("digits", None, 32)
    assert teacher.output == "r/domains/vgg-teacher"
    assert student.output == "r/domains/vgg-digits/position-svd-0"
    assert tenth.output == "r/domains/vgg-digits-tenth/position-svd-0"


def test_the_students_data_by_another_spelling_are_no_other_data() -> None:
    mini = PRESETS["mini"]
    for spelling in ("parquet:./data/cifar100", f"parquet:{Path('data/cifar100').resolve()}"):
        assert domains_preset(mini, "", spelling) == domains_preset(mini, "", "")


def test_other_experiments_have_one_set_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "networks", "--preset", "smoke", "--teacher-data", "digits"]
    assert main([*words, "--dry-run"]) == 2
    assert "teacher_data" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_and_tables(tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=(tmp_path / "printed.txt").open("w"))
    config = ReproduceConfig(
        preset="smoke", method="student,svd", output=str(tmp_path / "runs"), device="cpu"
    )
    runs = reproduce("domains", config, console=console)
    assert len(runs) == 5
    printed = console.export_text()
    assert "VGG, 200 labels" in printed
    assert "VGG, 20 labels" in printed
    assert "points from its student alone" not in printed
