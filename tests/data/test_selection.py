import subprocess
import unicodedata
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

from svdistill.common.errors import ArgumentError, DataError
from svdistill.data import DataWarning
from svdistill.data.image_files import ArrayPictures
from svdistill.data.selection import (
    ClassDraw,
    Subset,
    check_presence,
    check_spelling,
    keep_classes,
    parse_draw,
    select_classes,
    stratified,
    stratified_split,
    training_subset,
)

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**63 - 1)


def part_of(labels):
    """A part whose rows do not equal their places."""
    labels = np.asarray(labels)
    pictures = ArrayPictures(np.zeros((3 * len(labels), 3, 8, 8), dtype=np.uint8))
    return Subset(pictures, 3 * np.arange(len(labels)) + 1, labels)


@given(LABELS, st.floats(0, 1), SEEDS)
def test_stratified_chooses_so_many_places_in_order(labels, share, seed):
    size = round(share * len(labels))
    places = stratified(labels, size, seed)
    assert len(places) == size
    assert (np.diff(places) > 0).all()
    assert set(places) <= set(range(len(labels)))
    assert np.array_equal(places, stratified(labels, size, seed))


@given(LABELS, st.floats(0, 1), SEEDS)
def test_one_share_rounded_holds_for_every_class(labels, share, seed):
    chosen = labels[stratified(labels, round(share * len(labels)), seed)]
    least, most = 0.0, 1.0
    for label in np.unique(labels):
        there, kept = (labels == label).sum(), (chosen == label).sum()
        if len(chosen) >= len(np.unique(labels)):
            assert kept >= 1
        else:
            assert kept <= 1
        if kept > 1:
            least = max(least, (kept - 0.5) / there)
        if kept < there:
            most = min(most, (kept + 0.5) / there)
    assert least <= most + 1e-12


@given(st.integers(1, 9), st.integers(2, 12), st.floats(0, 1), SEEDS)
def test_equal_classes_stay_equal_to_one_image(classes, images, share, seed):
    labels = np.arange(classes * images) % classes
    chosen = labels[stratified(labels, round(share * len(labels)), seed)]
    counts = np.bincount(chosen, minlength=classes)
    assert counts.max() - counts.min() <= 1


def test_every_image_is_as_likely_as_any_other():
    labels = np.repeat([0, 1], [30, 10])
    times = np.zeros(40)
    for seed in range(600):
        times[stratified(labels, 10, seed)] += 1
    # 600 draws at 1/4: mean 150, standard deviation 11.
    assert abs(times - 150).max() < 55
    assert not np.array_equal(stratified(labels, 10, 0), stratified(labels, 10, 1))


@given(LABELS, st.floats(0, 1), SEEDS)
def test_split_part_shares_no_row_and_loses_none(labels, share, seed):
    part = part_of(labels)
    size = round(share * len(labels))
    one, other = stratified_split(part, size, seed)
    assert len(one.rows) == size
    assert sorted([*one.rows, *other.rows]) == part.rows.tolist()
    for piece in (one, other):
        assert (np.diff(piece.rows) > 0).all()
        assert np.array_equal(piece.labels, labels[(piece.rows - 1) // 3])
        assert piece.pictures is part.pictures


@given(LABELS, st.sets(st.integers(0, 8), min_size=1).map(sorted))
def test_chosen_classes_are_kept_and_renumbered(labels, classes):
    kept = keep_classes(part_of(labels), np.array(classes))
    numbers = {label: number for number, label in enumerate(classes)}
    assert kept.labels.tolist() == [numbers[label] for label in labels if label in numbers]
    assert kept.labels.dtype == np.int64
    assert [classes[label] for label in kept.labels] == labels[(kept.rows - 1) // 3].tolist()


def test_training_part_keeps_all_for_none():
    part = part_of([0, 1, 1])
    kept, rest = training_subset(part, None, 0)
    assert kept is part
    assert len(rest.rows) == 0


@pytest.mark.parametrize("size", [2, 3, 5])
def test_training_part_keeps_that_many(size):
    kept, rest = training_subset(part_of([0, 0, 0, 0, 1]), size, 0)
    assert np.bincount(kept.labels).tolist() == [size - 1, 1]
    assert sorted([*kept.rows, *rest.rows]) == part_of([0, 0, 0, 0, 1]).rows.tolist()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1, r"2 \(one image per class\) to 5 \(all images\), got 1"),
        (6, r"to 5 \(all images\), got 6; .*leave it out for all"),
        (0, "an integer of at least 1"),
        (-3, "an integer of at least 1"),
        (3.0, "an integer of at least 1, got 3.0"),
        ("3", "an integer of at least 1, got '3'"),
        (True, "an integer of at least 1, got True"),
    ],
)
def test_training_part_of_a_size_that_cannot_be(size, message):
    with pytest.raises(ArgumentError, match=f"train_size: expected .*{message}"):
        training_subset(part_of([0, 0, 0, 1, 1]), size, 0)


# Drawn classes


# WordNet IDs of ImageNet, the goldfish first.
WNIDS = ("n01443537", "n02002724", "n02012849", "n02099601", "n02129165", "n03126707", "n07873807")
NAME_LISTS = st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=30, unique=True)
DRAW_SEEDS = st.integers(0, 2**70)


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


@given(NAME_LISTS, DRAW_SEEDS, st.randoms())
def test_the_draw_follows_from_the_names_whatever_their_order(names, seed, random):
    count = 2 + len(names) // 3 if len(names) > 3 else 2
    mixed = random.sample(names, len(names))
    assert set(drawn(names, count, seed)) == set(drawn(mixed, count, seed))
    places = select_classes(mixed, 1, ClassDraw(count, seed))
    assert len(places) == count
    assert (np.diff(places) > 0).all()


@given(NAME_LISTS, DRAW_SEEDS)
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
    assert parse_draw(text) == (int(count), int(seed), False)
    assert parse_draw(f"rest:{text}") == (int(count), int(seed), True)


@pytest.mark.parametrize("every", [1, 2])
def test_the_rest_of_a_draw_is_all_that_it_leaves(every):
    whole = set(select_classes(WNIDS, every, None).tolist())
    drawn, rest = (
        select_classes(WNIDS, every, ClassDraw(2, 0, rest=rest)).tolist() for rest in (False, True)
    )
    assert rest == sorted(whole - set(drawn))
    with pytest.raises(ArgumentError, match=r"classes: .*so that 2 are left, got"):
        select_classes(WNIDS, every, ClassDraw(len(whole) - 1, 0, rest=True))


@pytest.mark.parametrize(
    "text", ["50", 50, "", "@0", "50@", "1@0", "-5@0", "5@-1", "5 @0", "٥@0", "rest:5", "rest@0"]
)
def test_what_is_no_draw(text):
    with pytest.raises(ArgumentError, match=r"classes: expected N@SEED, such as 50@0: .*got .*; "):
        parse_draw(text)


# Names of classes


CAFE = "café"


def numbers(*labels):
    return np.array(labels, dtype=np.int64)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("bee", "Bee"), ("'bee'", "'Bee'")),
        (
            (unicodedata.normalize("NFC", CAFE), unicodedata.normalize("NFD", CAFE)),
            (r"'caf\\xe9'", r"'cafe\\u0301'"),
        ),
    ],
)
def test_splits_that_spell_a_class_differently(names, shown):
    labels = {"train": numbers(0, 0), "test": numbers(1)}
    message = rf"got {shown[0]} with 2 image\(s\) in train, {shown[1]} with 1 image\(s\) in test"
    with pytest.raises(DataError, match=message):
        check_spelling("insects", names, labels)


def test_splits_that_agree_may_tell_letters_by_their_case():
    labels = {"train": numbers(0, 1, 1), "test": numbers(0, 1)}
    message = r"only in case .*: 'a' with 1 image\(s\) in train and 1 in test, 'A' with 2"
    with pytest.warns(DataWarning, match=message):
        check_spelling("letters", ("a", "A"), labels)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 0, 1, 1], [0, 1, 2, 2], r"without training images: 'cat' \(2\), 1 class"),
        ([0, 0, 1, 1, 2, 2], [0, 1], r"without test images: 'cat' \(2\), 1 class"),
        ([0, 0, 1, 1, 2], [0, 1], r"classes of a single image: 'cat' \(1\)"),
        ([0, 0, 1, 1, 2], [0, 1, 2], r"single training image: 'cat' \(1\)"),
        ([0, 0, 1, 1], [0, 1], r"classes without any image: 'cat' \(0\)"),
    ],
)
def test_classes_that_only_one_split_has_are_told(train, test, message):
    with pytest.warns(DataWarning, match=message) as told:
        check_presence("insects", ("ant", "bee", "cat"), numbers(*train), numbers(*test))
    assert len(told) == 1


def test_nothing_to_tell():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_presence("insects", ("ant", "bee"), numbers(0, 0, 1, 1), numbers(0, 1))
        check_spelling("insects", ("ant", "bee"), {"train": numbers(0, 0, 1, 1)})


def test_test_images_of_other_classes_alone():
    with pytest.raises(DataError, match=r"got none of 'cat' \(2\), 1 class"):
        check_presence("insects", ("ant", "bee", "cat"), numbers(0, 1), numbers(2, 2))
