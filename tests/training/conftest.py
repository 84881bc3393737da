import pytest
from tiny_runs import distill_config, train_config

from svdistill.training import distill, train


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory):
    """A finished run, to be looked at and never changed."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    train(train_config(output, seed=7, epochs=3, dev_fraction=0.2))
    return output


@pytest.fixture(scope="session")
def student_run(tmp_path_factory, teacher_run):
    """A finished 1-stage distillation, likewise."""
    output = tmp_path_factory.mktemp("runs") / "student"
    distill(distill_config(output, teacher_run, epochs=3))
    return output


@pytest.fixture(scope="session")
def two_stage_run(tmp_path_factory, teacher_run):
    """A finished 2-stage distillation, two epochs each, likewise."""
    output = tmp_path_factory.mktemp("runs") / "two-stage"
    distill(distill_config(output, teacher_run, transfer_epochs=2, weight_decay=0.1))
    return output
