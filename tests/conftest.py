"""Lies here so that pytest puts this folder on the path: every test can `import references`."""

import os
import tempfile
from pathlib import Path

import pytest

# `datasets` copies what it reads: not into the cache of whoever runs the tests.
CACHE = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = CACHE.name


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
