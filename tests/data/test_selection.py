import numpy as np
import pytest
from hypothesis import given, strategies as st

from svdistill.common.errors import ArgumentError
from svdistill.data.image_files import ArrayPictures
from svdistill.data.selection import (
    Subset,
    keep_classes,
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
        (6, r"to 5 \(all images\), got 6; .*None for all"),
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
