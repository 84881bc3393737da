"""Fixtures of several rooms: data found beside the checkout, and runs that are made once."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

# `datasets` copies what it reads: not into the cache of whoever runs the tests.
CACHE = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = CACHE.name


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Import the test files, and all that they import, without looks at what is no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give all tests and examples of exports to one process: its first ONNX file takes 15 s."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FileScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith(("tests/export/", "src/svdistill/export/")):
                return "exports"
            return super()._split_scope(nodeid)

    return FileScheduling(config, log)


def pytest_collection_finish(session):
    free_garbage()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.path != item.path:
        free_garbage()


def free_garbage():
    """Free the networks that tests left in reference cycles: some are 100 MB.

    What is left is mostly imported modules. Frozen, these make no later collection slow or rare.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cifar100():
    """The folder of CIFAR-100's Parquet files, train-*.parquet and test-*.parquet."""
    default = Path(__file__).parents[2] / "shared" / "data" / "cifar100"
    path = Path(os.environ.get("SVDISTILL_CIFAR100", default))
    if not (list(path.glob("train-*.parquet")) and list(path.glob("test-*.parquet"))):
        reason = f"no CIFAR-100 Parquet files in {path}; set SVDISTILL_CIFAR100 to their folder"
        if os.environ.get("SVDISTILL_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


# Imports are in the functions: HF_DATASETS_CACHE must be set before.
@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory):
    """A finished run, to be looked at and never changed."""
    from svdistill.training import train
    from tiny_runs import train_config

    output = tmp_path_factory.mktemp("runs") / "teacher"
    train(train_config(output, seed=7, epochs=3, dev_fraction=0.2))
    return output


@pytest.fixture(scope="session")
def student_run(tmp_path_factory, teacher_run):
    """A finished 1-stage distillation, likewise."""
    from svdistill.training import distill
    from tiny_runs import distill_config

    output = tmp_path_factory.mktemp("runs") / "student"
    distill(distill_config(output, teacher_run, epochs=3))
    return output


@pytest.fixture(scope="session")
def two_stage_run(tmp_path_factory, teacher_run):
    """A finished 2-stage distillation, two epochs each, likewise."""
    from svdistill.training import distill
    from tiny_runs import distill_config

    output = tmp_path_factory.mktemp("runs") / "two-stage"
    distill(distill_config(output, teacher_run, transfer_epochs=2, weight_decay=0.1))
    return output
