import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import PAPER_LOSS, made_run, written
from stores import knowledge, write_store
from svdistill.common import RunError
from svdistill.config import DistillConfig, TrainConfig
from svdistill.report.runs import (
    Run,
    class_choice,
    dataset_name,
    find_runs,
    loss_name,
    named_teacher,
    row_name,
    teacher_among,
    teacher_network,
)
from svdistill.store import IN_BF16

RESULTS = Path(__file__).parents[2] / "results"


def test_runs_are_found_at_any_depth_each_once_and_sorted(tmp_path: Path) -> None:
    places = ["b/second", "a", "b/first"]
    for place in places:
        written(made_run(str(tmp_path / place), loss="svd", teacher="t", seed=4))
    (tmp_path / "b/unfinished").mkdir()
    (tmp_path / "b/unfinished/config.yaml").write_text("data: digits\nclasses_every: 1\n")
    found = find_runs([tmp_path / "b", tmp_path / "b/first", tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == sorted(places)
    (run, *_) = found
    assert (run.row, run.pair, run.summary.seed) == ("SVD", "VGG", 4)
    assert [record.test_accuracy for record in run.records] == [10.0, 20.0]
    assert run.environment["packages"]


def test_numbers_in_paths_count_as_numbers(tmp_path: Path) -> None:
    order = ["2/svd-10", "10/svd-2", "10/svd-10", "k2-0", "k16-0", "k16-x", "k²"]
    for place in order:
        written(made_run(str(tmp_path / place)))
    found = find_runs([tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == order


def test_a_run_reads_back_as_it_was(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"), loss="fsp", teacher="t")
    assert find_runs([written(run)]) == [run]


@pytest.mark.parametrize(
    ("network", "pair", "options", "is_teacher"),
    [
        ("vgg_stride_student", "VGG_stride", {}, False),
        ("vgg_teacher", "VGG", {}, True),
        ("mobilenet_student", "MobileNet", {"loss": "svd"}, False),
        ("resnext_teacher", "ResNeXt", {"loss": "svd"}, False),
    ],
)
def test_pair_and_part(network: str, pair: str, options: dict[str, str], is_teacher: bool) -> None:
    run = made_run("run", network, **options)
    assert (run.pair, run.is_teacher, run.is_distilled) == (pair, is_teacher, bool(options))


def test_networks_given_in_python_are_told_apart_by_their_size() -> None:
    pairs = [made_run("run", "object", parameters=count).pair for count in (1_230_000, 40_000)]
    assert pairs == ["own network, 1.23M parameters", "own network, 0.04M parameters"]


def test_other_libraries_networks_are_none_of_the_seeds() -> None:
    run = made_run("run", "timm:resnet18")
    assert (run.pair, run.is_of_paper, run.is_teacher) == ("timm:resnet18", False, False)
    assert made_run("run").is_of_paper


def test_a_wrong_path_is_answered_with_the_nearest(tmp_path: Path) -> None:
    written(made_run(str(tmp_path / "mini-clip" / "a")))
    with pytest.raises(RunError, match="did you mean 'mini-clip'"):
        find_runs([tmp_path / "mini-clpi"])


def test_a_folder_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        find_runs([tmp_path])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("data: digits\nclasses_every: 1\n")
    with pytest.raises(RunError, match="unfinished"):
        find_runs([tmp_path])


def test_committed_runs_are_read() -> None:
    rows = {run.row for run in find_runs([RESULTS / "mini-clip"])}
    assert rows == {"teacher", "student alone", "SVD", "SVD, global", "SVD, amortised"}


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


def test_the_teacher_of_a_store_is_named_whatever_its_precision(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [knowledge()], teacher="runs/teacher" + IN_BF16)
    run = student("", knowledge=str(tmp_path / "store"))
    assert named_teacher(run) == "runs/teacher"
    assert teacher_among(run, [TEACHER]) is TEACHER


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


def test_data_sets_are_called_by_their_names() -> None:
    names = {
        "digits": "scikit-learn's digits",
        "hub:uoft-cs/cifar100": "CIFAR-100",
        "tiny_imagenet:/data/tiny-imagenet-200": "Tiny-ImageNet",
        "folder:/data/ImageNet": "ImageNet",
        "folder:/data/flowers": "flowers",
        "folder:/data/digits": "digits",
        "object": "images given in Python",
    }
    assert {data: dataset_name({"data": data}) for data in names} == names
    assert class_choice({"classes_every": 2, "classes": "50@0"}) == "one class in 2, 50 classes"
    assert class_choice({"classes_every": 1, "classes": None}) == "all classes"


# The usual weights of labels and soft targets, beside another loss.
BESIDE = {"task_weight": 1.0, "soft_target_weight": 3.0}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "SVD"),
        ({"transfer_epochs": 3}, "SVD, 2-stage"),
        ({"transfer_epochs": 3, "clip": "amortised", "num_vectors": 2}, "SVD, 2-stage, k = 2"),
        ({"num_vectors": 4}, "SVD, k = 4"),
        ({"beta": 2.0}, "SVD, beta = 2"),
        ({"gradient": "poster"}, "SVD, poster's gradient"),
        (
            {"gradient": "authors", "num_vectors": 8, "clip": "amortised"},
            "SVD, k = 8, authors' gradient, amortised",
        ),
        ({"clip": "poster"}, "SVD, poster's clip"),
        ({"clip": "global"}, "SVD, global"),
        ({"clip": "none"}, "SVD, unclipped"),
        ({"transfer_weight": 0.02}, "SVD, weights 1 : 0.02"),
        ({"loss": "fsp"}, "FSP, 1-stage"),
        ({"loss": "fsp", "transfer_epochs": 1}, "FSP, 2-stage"),
        ({"loss": "fsp", "clip": "amortised"}, "FSP, 1-stage, amortised"),
        (
            {"loss": "soft_target", "clip": "none", "task_weight": 0.1, "transfer_weight": 0.9},
            "soft target",
        ),
        ({"loss": "soft_target"}, "soft target, clipped, weights 1 : 1"),
        (
            {
                "loss": "soft_target",
                "clip": "none",
                "task_weight": 0.1,
                "transfer_weight": 0.9,
                "temperature": 2.0,
            },
            "soft target, T = 2",
        ),
        ({"loss": "svd+soft_target", **BESIDE}, "SVD + soft target"),
        (
            {"loss": "svd+soft_target", "clip": "amortised", "num_vectors": 2, **BESIDE},
            "SVD + soft target, k = 2, amortised",
        ),
        ({"loss": "svd+soft_target"}, "SVD + soft target, weights 1 : 1 : 1"),
        ({"loss": "fsp+soft_target", **BESIDE}, "FSP + soft target, 1-stage"),
        ({"loss": "position_svd", "num_vectors": 4}, "position SVD, k = 4"),
        ({"student_taps": ["a", "b"]}, "SVD, taps a b"),
        ({"unlabelled": "rest"}, "SVD, unlabelled images too"),
        (
            {"loss": "svd+torchdistill:KDLoss", "soft_target_weight": 9.0},
            "SVD + KDLoss, weights 1 : 1 : 9",
        ),
        ({"loss": "svd+torchdistill:KDLoss", "soft_target_weight": 1.0}, "SVD + KDLoss"),
    ],
)
def test_a_taught_student_is_named_by_what_differs(options: dict[str, object], name: str) -> None:
    seeds_own = DistillConfig(output="run", teacher="teacher", loss="svd", **PAPER_LOSS)
    config = dataclasses.asdict(seeds_own)
    assert row_name({**config, **options}) == name


def test_a_network_on_its_own_is_named_by_its_part() -> None:
    assert row_name(dataclasses.asdict(TrainConfig(output="run"))) == "student alone"
    assert row_name({"network": "resnext_teacher"}) == "teacher"


def test_schedule_and_length_are_not_named() -> None:
    config = dataclasses.asdict(DistillConfig(output="run", teacher="teacher").filled())
    changed = {"epochs": 3, "learning_rate": 1.0, "schedule": "constant", "seed": 9, "width": 0.5}
    assert row_name({**config, **changed}) == row_name(config)


def test_an_older_configuration_without_later_fields_has_a_name() -> None:
    assert row_name({"network": "vgg_student", "loss": "svd"}) == "SVD"


def test_what_is_transferred_is_named_alone_too() -> None:
    assert loss_name({"loss": "position_svd+soft_target", "clip": "none"}) == (
        "position SVD + soft target"
    )
