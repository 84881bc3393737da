import random

import numpy as np
import pytest
import torch

from svdistill.data.loaders import PrivateRandomStates


def drawn():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def test_the_same_seed_draws_the_same_again_and_leaves_no_trace():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    untouched = drawn()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    found = []
    for seed in (5, 5, 6):
        states = PrivateRandomStates(seed)
        with states.installed():
            first = drawn()
        with states.installed():
            found.append((first, drawn()))
    assert drawn() == untouched
    assert found[0] == found[1]
    for part in range(3):
        assert len({str(pair[turn][part]) for pair in found for turn in (0, 1)}) == 4


def test_states_come_back_after_an_error():
    def fail():
        with PrivateRandomStates(2**63 - 1).installed():
            torch.rand(1)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
