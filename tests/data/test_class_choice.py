import subprocess
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

from svdistill.common.errors import ArgumentError
from svdistill.data.selection import ClassDraw, parse_draw, select_classes

# WordNet IDs of ImageNet, the goldfish first.
WNIDS = ("n01443537", "n02002724", "n02012849", "n02099601", "n02129165", "n03126707", "n07873807")
NAMES = st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=30, unique=True)
SEEDS = st.integers(0, 2**70)


def drawn(names, count, seed):
    return [names[place] for place in select_classes(names, 1, ClassDraw(count, seed))]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, ["n01443537", "n02012849", "n02129165"]),
        (1, ["n02002724", "n02012849", "n02129165"]),
    ],
)
def test_the_draw_never_changes(seed, expected):
    assert drawn(WNIDS, 3, seed) == expected


def test_the_draw_is_that_of_sha256sum():
    ranked = {}
    for name in WNIDS:
        command = ["sh", "-c", f"printf '7:{name}' | sha256sum"]
        ranked[subprocess.run(command, capture_output=True, text=True, check=True).stdout] = name
    assert drawn(WNIDS, 4, 7) == sorted(ranked[digest] for digest in sorted(ranked)[:4])


@given(NAMES, SEEDS, st.randoms())
def test_the_draw_follows_from_the_names_whatever_their_order(names, seed, random):
    count = 2 + len(names) // 3 if len(names) > 3 else 2
    mixed = random.sample(names, len(names))
    assert set(drawn(names, count, seed)) == set(drawn(mixed, count, seed))
    places = select_classes(mixed, 1, ClassDraw(count, seed))
    assert len(places) == count
    assert (np.diff(places) > 0).all()


@given(NAMES, SEEDS)
def test_more_classes_are_drawn_to_fewer(names, seed):
    draws = [set(drawn(names, count, seed)) for count in range(2, len(names) + 1)]
    assert all(fewer < more for fewer, more in pairwise(draws))
    assert draws[-1] == set(names)


def test_every_class_is_as_likely_as_any_other():
    times = np.zeros(20)
    names = [f"class {number}" for number in range(20)]
    for seed in range(800):
        times[select_classes(names, 1, ClassDraw(5, seed))] += 1
    # 800 draws at 1/4: mean 200, standard deviation 12.
    assert abs(times - 200).max() < 60


def test_classes_are_drawn_from_every_nth():
    names = [f"class {number}" for number in range(20)]
    assert select_classes(names, 4, None).tolist() == [0, 4, 8, 12, 16]
    chosen = select_classes(names, 4, ClassDraw(3, 0))
    assert [names[place] for place in chosen] == drawn(names[::4], 3, 0)


def test_too_few_classes():
    with pytest.raises(ArgumentError, match=r"classes_every: .*2 or more of 7 classes, got 7"):
        select_classes(WNIDS, 7, None)
    with pytest.raises(ArgumentError, match=r"classes: expected at most 4 classes.*got 5; draw"):
        select_classes(WNIDS, 2, ClassDraw(5, 0))


@pytest.mark.parametrize("text", ["50@0", "2@12345678901234567890", "007@1"])
def test_a_draw_is_read(text):
    count, seed = text.split("@")
    assert parse_draw(text) == (int(count), int(seed))


@pytest.mark.parametrize("text", ["50", 50, "", "@0", "50@", "1@0", "-5@0", "5@-1", "5 @0", "٥@0"])
def test_what_is_no_draw(text):
    with pytest.raises(ArgumentError, match=r"classes: expected N@SEED, such as 50@0: .*got .*; "):
        parse_draw(text)
