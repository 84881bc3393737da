"""Training in two and in four processes is training in one, for every loss, clip and stage."""

import pytest
import torch

from parallel import CLIPS, IMAGES, LOSSES, Case, trained, weights
from svdistill.data import load_images

# Each loss, each clip, both numbers of stages;
# benchmarks/reliability/parallel.py has them all.
TWO = [
    *(Case(loss, CLIPS[place % len(CLIPS)], 1, "float64") for place, loss in enumerate(LOSSES)),
    Case("svd", "amortised", 2, "float64"),
    Case("svd+soft_target, adapters", "norm", 2, "float64"),
    Case("svd", "amortised", 1, "float32"),
]
FOUR = [Case("sum", "amortised", 1, "float64"), Case("svd, adapters", "global", 2, "float64")]
CHOSEN = [*((2, case) for case in TWO), *((4, case) for case in FOUR)]
pytestmark = pytest.mark.timeout(900)  # twenty steps each, in six processes
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


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "case"), CHOSEN, ids=str)
def test_several_processes_train_as_one(processes, case, found, data):
    alone = trained(case, data)
    ranks = found[processes][case]
    for rank in ranks:
        assert torch.equal(rank, ranks[0])
    torch.testing.assert_close(ranks[0], alone, rtol=0, atol=TOLERANCE[case.dtype])
