from svdistill.config import TrainConfig
from svdistill.training.reproducibility import derive_seed
from svdistill.training.setup import ViewSchedule

NEW, TWO = ViewSchedule(seed=0), ViewSchedule(seed=0, count=2)


def test_a_new_view_in_every_epoch_or_a_few_in_turn():
    assert [NEW.of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 3, 4]
    assert [TWO.of_epoch(epoch) for epoch in range(5)] == [0, 1, 0, 1, 0]


def test_a_new_view_in_every_step_or_one_of_a_few_in_every_epoch():
    steps = [(epoch, step) for epoch in range(3) for step in (1, 2)]
    assert [NEW.of_step(epoch, step, 2) for epoch, step in steps] == [1, 2, 3, 4, 5, 6]
    assert [TWO.of_step(epoch, step, 2) for epoch, step in steps] == [0, 0, 1, 1, 0, 0]


def test_runs_have_views_of_their_own_unless_they_share_a_seed():
    def views(**fields):
        return ViewSchedule.from_config(TrainConfig(output="a", **fields))

    assert views(seed=3) == ViewSchedule(derive_seed(3, "views"), 0)
    assert {views(seed=seed, views=4, views_seed=0) for seed in (1, 2)} == {ViewSchedule(0, 4)}
