"""A few of the kills that benchmarks/reliability/kills.py makes by the dozen."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import kills
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    kills.prepare(folder)
    return folder


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_left_alone(folder, monkeypatch):
    """At writes: however slow the machine, they are in the run's course where they are."""
    name = "one stage, adapters"
    whole = kills.configured(name, folder, "whole")
    assert kills.in_process(replace(whole, checkpoint_minutes=0.0)) is not None
    drawn = iter([kills.Kill(write=number) for number in (9, 12, 25)])
    monkeypatch.setattr(kills, "KILLS_EACH", 3)
    monkeypatch.setattr(kills, "draw_kill", lambda draw, seconds: next(drawn))
    counts = kills.kill_and_compare(name, folder, kills.outcome(Path(whole.output)), 1.0, "seed")
    assert counts["kills"] == 3
    assert counts["within_an_epoch"] + counts["between_epochs"] > 0
    assert counts["differ"] == counts["damaged"] == 0


@pytest.mark.slow
def test_another_end_is_noticed(folder, monkeypatch):
    monkeypatch.setattr(kills, "KILLS_EACH", 0)
    assert kills.kill_and_compare("the task alone", folder, "another", 1.0, "seed")["differ"] == 1


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_no_kill(folder):
    config = replace(kills.configured("the task alone", folder, "failing"), learning_rate=1e30)
    with pytest.raises(RuntimeError, match="ended with status 1"):
        kills.in_process(config)


def test_kills_follow_from_their_seed():
    def drawn(seed):
        draw = random.Random(seed)
        return [kills.draw_kill(draw, 10.0) for _ in range(20)]

    assert drawn("a") == drawn("a") != drawn("b")
    kinds = Counter(kill.write is None for kill in drawn("a"))
    assert kinds[True] > 3
    assert kinds[False] > 3
    assert all(0 <= kill.seconds <= 10 for kill in drawn("a") if kill.seconds is not None)
