"""A run that reads a store goes on with that store's knowledge, or not at all."""

import shutil

import pytest

from svdistill.common.errors import RunError
from svdistill.config import CacheConfig, DistillConfig
from svdistill.training import cache_knowledge, distill
from tiny_runs import TINY, KillAfter, Killed


def test_a_store_that_was_made_anew_in_another_precision_is_another_teacher(tmp_path, teacher_run):
    store = tmp_path / "store"
    images = {"data": "digits", "train_size": 200, "augmentation": "paper"}
    made = CacheConfig(output=str(store), teacher=str(teacher_run), **images, loss="svd", views=1)
    options = {**TINY, "augmentation": "paper", "loss": "svd", "epochs": 2}
    student = DistillConfig(output=str(tmp_path / "run"), knowledge=str(store), **options)
    for precision in ("bf16", "float32"):
        made.precision = precision
        cache_knowledge(made)
        if precision == "bf16":
            with pytest.raises(Killed):
                distill(student, KillAfter(1))
            shutil.rmtree(store)
    student.resume = True
    with pytest.raises(RunError, match=r"the teacher that .* was started with"):
        distill(student)
