"""A few of the mutations that benchmarks/reliability/mutations.py makes by the thousand."""

import random
from collections import Counter

import pytest
from mutations import BAD, mutate, outcomes
from stored_files import KINDS, meaning


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    results = list(outcomes(name, seed=1, numbers=range(20), folder=tmp_path))
    assert not [result for result in results if result[0] in BAD]
    counts = Counter(result for result, _ in results)
    assert counts["refused"] > 0
    assert not KINDS[name].checksum or counts["other"] == 0


@pytest.mark.parametrize("name", KINDS)
def test_a_file_means_what_it_meant(name, tmp_path):
    path = tmp_path / KINDS[name].name
    KINDS[name].make(path)
    assert meaning(KINDS[name].read(path)) == meaning(KINDS[name].read(path))


def test_mutations_follow_from_their_seed():
    content = bytes(range(256))
    drawn = [mutate(content, random.Random(seed)) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
