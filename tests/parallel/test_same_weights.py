"""Training in two and in four processes is training in one, for every loss, clip and stage."""

import pytest
import torch
from parallel import CLIPS, IMAGES, LOSSES, Case, cases, trained, weights

from svdistill.data import load_images

# Each loss by the clip that takes both gradients and by the one that seldom does, and each clip;
# benchmarks/reliability/parallel.py has them all.
TWO = [
    *(Case(loss, CLIPS[place % len(CLIPS)], 1, "float64") for place, loss in enumerate(LOSSES)),
    *cases(losses=["svd"], stages=[1], dtypes=["float64"], clips=["poster", "none", "amortised"]),
    *cases(
        losses=["svd", "svd+soft_target, adapters"],
        stages=[2],
        dtypes=["float64"],
        clips=["amortised"],
    ),
    Case("svd", "amortised", 1, "float32"),
]
FOUR = [
    Case("svd", "norm", 1, "float64"),
    Case("sum", "amortised", 1, "float64"),
    Case("svd, adapters", "global", 2, "float64"),
]
CHOSEN = [*((2, case) for case in TWO), *((4, case) for case in FOUR)]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return {
        2: weights(2, TWO, tmp_path_factory.mktemp("two")),
        4: weights(4, FOUR, tmp_path_factory.mktemp("four")),
    }


@pytest.fixture(scope="module")
def data():
    return load_images("digits", train_size=IMAGES)


def test_every_loss_and_clip_is_there():
    assert {case.loss for case in TWO} == set(LOSSES)
    assert {case.clip for case in TWO} == set(CLIPS)


@pytest.mark.parametrize(("processes", "case"), CHOSEN, ids=str)
def test_several_processes_train_as_one(processes, case, found, data):
    alone = trained(case, data)
    ranks = found[processes][case]
    for rank in ranks:
        assert torch.equal(rank, ranks[0])
    torch.testing.assert_close(ranks[0], alone, rtol=0, atol=TOLERANCE[case.dtype])
