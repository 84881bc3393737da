import gc
import time
from functools import partial

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.common.timing import Case, Measurement, interleave, threads


def test_cases_take_turns_in_changing_order_after_the_warm_up() -> None:
    calls: list[str] = []
    cases = [Case("a", lambda: calls.append("a")), Case("b", lambda: calls.append("b"), calls=2)]
    interleave(cases, rounds=6, warm_up=1)
    made = "".join(calls)
    rounds = [made[at : at + 3] for at in range(2, len(made), 3)]
    assert made[:2] == "ab"
    assert len(rounds) == 6
    assert set(rounds) == {"abb", "bba"}


def test_each_case_keeps_its_own_times_whatever_the_order() -> None:
    waits = (0.0, 0.02, 0.04)
    cases = [Case(str(wait), partial(time.sleep, wait)) for wait in waits]
    for wait, measured in zip(waits, interleave(cases, rounds=3), strict=True):
        assert wait <= min(measured.seconds)


def test_the_mean_of_several_calls_is_kept() -> None:
    waits = iter([0.0, 0.0, 0.04])
    (measurement,) = interleave([Case("a", lambda: time.sleep(next(waits)), calls=2)], rounds=1)
    assert 0.02 <= measurement.median < 0.04
    assert measurement.seconds == (measurement.median,)


def test_median_and_quartiles() -> None:
    measurement = Measurement.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (measurement.lower_quartile, measurement.median, measurement.upper_quartile) == (2, 3, 4)
    assert measurement.seconds == (5.0, 1.0, 2.0, 4.0, 3.0)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down tenfold half way changes no ratio."""
    floor = Measurement.of([1.0, 1.0, 10.0, 10.0])
    row = Measurement.of([3.0, 3.0, 30.0, 30.0])
    ratios = row.ratios_to(floor)
    assert ratios.seconds == (3.0, 3.0, 3.0, 3.0)
    assert ratios.median == 3.0


def test_the_garbage_collector_is_off_inside_and_as_before_afterwards() -> None:
    states: list[bool] = []
    interleave([Case("a", lambda: states.append(gc.isenabled()))], rounds=1, warm_up=0)
    assert states == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("frozen_before", [False, True])
def test_objects_are_frozen_inside_and_as_before_afterwards(frozen_before: bool) -> None:
    """A program that froze its modules would else collect all of them from its first timing on."""
    counts: list[int] = []
    gc.unfreeze()
    try:
        if frozen_before:
            gc.freeze()
        before = gc.get_freeze_count()
        interleave([Case("a", lambda: counts.append(gc.get_freeze_count()))], rounds=1, warm_up=0)
        assert counts[0] > 0
        assert (gc.get_freeze_count() > 0) == (before > 0) == frozen_before
    finally:
        gc.freeze()  # as tests/conftest.py does, or the next tests become slow


def test_no_round_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="rounds"):
        interleave([], rounds=0)


def test_threads_are_those_asked_for_and_afterwards_as_before() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
