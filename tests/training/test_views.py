from svdistill.config import TrainConfig
from svdistill.training.epoch import Views, views_of
from svdistill.training.setup import derive_seed


def test_a_new_view_in_every_epoch_or_a_few_in_turn():
    assert [Views(0).of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 3, 4]
    assert [Views(0, 3).of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]


def test_a_new_view_in_every_step_or_one_of_a_few_in_every_epoch():
    steps = [(epoch, step) for epoch in range(3) for step in (1, 2)]
    assert [Views(0).of_step(epoch, step, 2) for epoch, step in steps] == [1, 2, 3, 4, 5, 6]
    assert [Views(0, 2).of_step(epoch, step, 2) for epoch, step in steps] == [0, 0, 1, 1, 0, 0]


def test_runs_have_views_of_their_own_unless_they_share_a_seed():
    assert views_of(TrainConfig(output="a", seed=3)) == Views(derive_seed(3, "views"), 0)
    shared = {
        views_of(TrainConfig(output="a", seed=seed, views=4, views_seed=0)) for seed in (1, 2)
    }
    assert shared == {Views(0, 4)}
