import dataclasses

import pytest

from svdistill.config import DistillConfig, TrainConfig
from svdistill.report.runs import loss_name, row_name

# The usual weights of labels and soft targets, beside another loss.
BESIDE = {"task_weight": 0.1, "soft_target_weight": 0.9}


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
    ],
)
def test_a_taught_student_is_named_by_what_differs(options: dict[str, object], name: str) -> None:
    seeds_own = DistillConfig(output="run", teacher="teacher", loss="svd", clip="norm")
    config = dataclasses.asdict(seeds_own)
    assert row_name({**config, **options}) == name


def test_a_network_on_its_own_is_named_by_its_part() -> None:
    assert row_name(dataclasses.asdict(TrainConfig(output="run"))) == "student alone"
    assert row_name({"network": "resnext_teacher"}) == "teacher"


def test_schedule_and_length_are_not_named() -> None:
    config = dataclasses.asdict(DistillConfig(output="run", teacher="teacher"))
    changed = {"epochs": 3, "learning_rate": 1.0, "schedule": "constant", "seed": 9, "width": 0.5}
    assert row_name({**config, **changed}) == row_name(config)


def test_an_older_configuration_without_later_fields_has_a_name() -> None:
    assert row_name({"network": "vgg_student", "loss": "svd"}) == "SVD"


def test_what_is_transferred_is_named_alone_too() -> None:
    assert loss_name({"loss": "position_svd+soft_target", "clip": "none"}) == (
        "position SVD + soft target"
    )
