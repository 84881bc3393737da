from collections import Counter
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from picture_files import noise
from svdistill.common.errors import ArgumentError
from svdistill.data import UNLABELLED, MixedSplit, ResidentSplit, StreamedSplit
from svdistill.data.image_files import ArrayPictures

IMAGES = noise(60).transpose(0, 3, 1, 2).copy()  # [N, 3, H, W]
COUNTS = st.integers(1, 30)
SEEDS = st.integers(0, 2**63 - 1)


def part(start, stop, streamed=False, labelled=True):
    """Some of the images, with their numbers as labels, or without labels."""
    rows = np.arange(start, stop)
    labels = torch.from_numpy(rows) if labelled else torch.full((len(rows),), UNLABELLED)
    if streamed:
        return StreamedSplit(ArrayPictures(IMAGES), rows, labels, workers=0)
    return ResidentSplit(torch.from_numpy(IMAGES[start:stop]), labels)


def mixed(labelled, unlabelled, streamed=False):
    border = labelled + unlabelled
    return MixedSplit(part(0, labelled, streamed), part(labelled, border, streamed, labelled=False))


def read(split, batch_size=8, **options):
    return list(split.batches(batch_size, **{"device": "cpu", "order_seed": 0, **options}))


@settings(max_examples=100, deadline=None)
@given(labelled=COUNTS, unlabelled=COUNTS, batch_size=st.integers(2, 40), seed=SEEDS)
def test_every_image_comes_and_the_kind_that_lasts_longer_once(
    labelled, unlabelled, batch_size, seed
):
    split = mixed(labelled, unlabelled)
    batches = read(split, batch_size, order_seed=seed)
    times = Counter(torch.cat([batch.indices for batch in batches]).tolist())
    ours = [times[index] for index in range(labelled)]
    theirs = [times[index] for index in range(labelled, labelled + unlabelled)]
    assert sum(times.values()) == sum(ours) + sum(theirs)
    for counts in (ours, theirs):
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1  # nothing twice before all have come once
    half = batch_size - batch_size // 2
    longer = ours if labelled * (batch_size - half) >= unlabelled * half else theirs
    assert set(longer) == {1}


@settings(max_examples=100, deadline=None)
@given(labelled=COUNTS, unlabelled=COUNTS, batch_size=st.integers(2, 40), seed=SEEDS)
def test_every_batch_is_half_labelled(labelled, unlabelled, batch_size, seed):
    split = mixed(labelled, unlabelled)
    batches = read(split, batch_size, order_seed=seed)
    assert len(batches) == split.steps(batch_size)
    less = batch_size // 2
    assert len(batches) == max(ceil(labelled / (batch_size - less)), ceil(unlabelled / less))
    for batch in batches:
        ours = int((batch.indices < labelled).sum())
        theirs = len(batch.indices) - ours
        assert (batch.indices[:ours] < labelled).all()  # the labelled ones first
        if batch is not batches[-1]:
            assert (ours, theirs) == (batch_size - less, less)
        assert theirs <= ours <= theirs + 1
        assert theirs >= 1
        places = batch.indices.numpy()
        assert np.array_equal(batch.images, IMAGES[places])
        assert batch.labels.tolist() == [*places[:ours], *[UNLABELLED] * theirs]


@settings(max_examples=30, deadline=None)
@given(labelled=COUNTS, unlabelled=COUNTS, batch_size=st.integers(2, 40), seed=SEEDS)
def test_the_seed_alone_decides(labelled, unlabelled, batch_size, seed):
    orders = []
    for state in (1, 2):
        torch.manual_seed(state)
        batches = read(mixed(labelled, unlabelled), batch_size, order_seed=seed)
        orders.append([batch.indices.tolist() for batch in batches])
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(state).get_state())
    assert orders[0] == orders[1]


def test_other_seeds_and_later_rounds_have_other_orders():
    split = mixed(12, 30)
    orders = [torch.cat([b.indices for b in read(split, order_seed=seed)]) for seed in range(9)]
    assert len({tuple(order.tolist()) for order in orders}) == 9
    ours = orders[0][orders[0] < 12]
    assert sorted(ours[:12].tolist()) == sorted(ours[12:24].tolist()) == list(range(12))
    assert ours[:12].tolist() != ours[12:24].tolist()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("order_seed", [None, 4])
def test_streamed_equals_resident(workers, order_seed):
    streamed = mixed(9, 20, streamed=True)
    streamed.labelled.workers = workers
    both = [read(split, order_seed=order_seed) for split in (mixed(9, 20), streamed)]
    for one, other in zip(*both, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("batch_size", [1, 8, 40])
def test_stored_order_is_labelled_then_unlabelled(batch_size):
    split = mixed(9, 20)
    batches = read(split, batch_size, order_seed=None)
    assert len(split) == 29
    assert [len(batch.labels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(29))
    assert np.array_equal(torch.cat([batch.images for batch in batches]), IMAGES[:29])
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == split.labels.tolist() == [*range(9), *[UNLABELLED] * 20]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 29), (0, 5), (5, 12), (9, 20), (15, 40)])
def test_a_part_is_in_stored_order(streamed, start, stop):
    split = mixed(9, 20, streamed).part(start, stop)
    stop = min(stop, 29)
    assert len(split) == stop - start
    batches = read(split, 4, order_seed=None)
    assert np.array_equal(torch.cat([batch.images for batch in batches]), IMAGES[start:stop])
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert labels == [row if row < 9 else UNLABELLED for row in range(start, stop)]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(len(split)))


def test_the_first_images():
    batch = mixed(9, 20).first(2, "cpu")
    assert np.array_equal(batch.images, IMAGES[:2])
    assert batch.labels.tolist() == batch.indices.tolist() == [0, 1]


def test_the_labelled_images_alone():
    labelled = mixed(9, 20).labelled
    assert isinstance(labelled, ResidentSplit)
    assert labelled.labels.tolist() == list(range(9))


def test_a_smaller_last_batch_can_be_left_out():
    split = mixed(5, 21)
    sizes = [len(batch.labels) for batch in read(split, 8)]
    assert sizes == [8] * 5 + [2]


def test_moves_what_is_in_memory():
    moved = mixed(3, 4).to("meta")
    assert moved.labels.device.type == "meta"
    for batch in read(moved, device="meta"):
        assert (batch.images.device.type, batch.indices.device.type) == ("meta", "cpu")


@pytest.mark.parametrize("batch_size", [1, 0, 2.0])
def test_a_batch_has_room_for_both(batch_size):
    for ask in (mixed(3, 4).steps, lambda size: read(mixed(3, 4), size)):
        with pytest.raises(ArgumentError, match=r"batch_size: expected (2 or more|an integer)"):
            ask(batch_size)


def test_a_bad_seed_is_refused_before_the_first_batch():
    with pytest.raises(ArgumentError, match="order_seed: expected an integer of at least 0"):
        mixed(3, 4).batches(4, device="cpu", order_seed=-1)
