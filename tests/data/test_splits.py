import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from picture_files import noise
from svdistill.common.errors import ArgumentError, DataError
from svdistill.data import ResidentSplit, StreamedSplit
from svdistill.data.image_files import ArrayPictures

COUNT = 23
IMAGES = noise(COUNT).transpose(0, 3, 1, 2).copy()  # [N, 3, H, W]
LABELS = np.arange(COUNT) % 4


def resident():
    return ResidentSplit(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))


def streamed(workers=0):
    """The same images, out of a larger table, in which they lie backwards."""
    stored = np.zeros((2 * COUNT, *IMAGES.shape[1:]), dtype=np.uint8)
    rows = 2 * np.arange(COUNT)[::-1]
    stored[rows] = IMAGES
    return StreamedSplit(ArrayPictures(stored), rows, torch.from_numpy(LABELS), workers=workers)


def read(split, batch_size=5, **options):
    return list(split.batches(batch_size, **{"device": "cpu", "order_seed": None, **options}))


KINDS = pytest.mark.parametrize("split", [resident(), streamed()], ids=["resident", "streamed"])


@KINDS
def test_stored_order(split):
    batches = read(split, 5)
    assert len(split) == COUNT
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
    assert np.array_equal(torch.cat([batch.images for batch in batches]), IMAGES)
    assert np.array_equal(torch.cat([batch.labels for batch in batches]), LABELS)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(COUNT))
    for batch in batches:
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        assert batch.indices.dtype == torch.int64
    assert np.array_equal(split.labels, LABELS)


@KINDS
@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 30), order_seed=st.integers(0, 2**63 - 1))
def test_any_order_visits_every_image_once(split, batch_size, order_seed):
    batches = read(split, batch_size, order_seed=order_seed)
    whole, rest = divmod(COUNT, batch_size)
    sizes = [batch_size] * whole + ([rest] if rest else [])
    assert [len(batch.indices) for batch in batches] == sizes
    seen = [int(index) for batch in batches for index in batch.indices]
    assert len(set(seen)) == len(seen) == sum(sizes)
    for batch in batches:
        places = batch.indices.numpy()
        assert np.array_equal(batch.images, IMAGES[places])
        assert np.array_equal(batch.labels, LABELS[places])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order_seed", [None, 9])
def test_streamed_equals_resident(workers, order_seed):
    pairs = zip(
        read(resident(), order_seed=order_seed),
        read(streamed(workers), order_seed=order_seed),
        strict=True,
    )
    for one, other in pairs:
        for a, b in zip(one[:3], other[:3], strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def order(split, seed):
    return torch.cat([batch.indices for batch in read(split, order_seed=seed)]).tolist()


@KINDS
def test_the_seed_alone_decides_the_order(split):
    torch.manual_seed(1)
    first = order(split, 3)
    torch.manual_seed(2)
    torch.rand(5)
    assert order(split, 3) == first
    assert first != list(range(COUNT))
    assert len({tuple(order(split, seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("split", [resident(), streamed(), streamed(workers=1)])
def test_global_random_states_stay_untouched(split):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    read(split, order_seed=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


@KINDS
def test_can_be_read_again_and_left_in_the_middle(split):
    iterator = split.batches(5, device="cpu", order_seed=0)
    next(iterator)
    del iterator
    assert order(split, 0) == order(split, 0)


def test_left_in_the_middle_with_workers():
    iterator = streamed(workers=2).batches(2, device="cpu", order_seed=None)
    assert next(iterator).indices.tolist() == [0, 1]
    iterator.close()


@KINDS
def test_batches_do_not_share_memory_with_the_data(split):
    for batch in read(split):
        batch.images.zero_()
        batch.labels.fill_(-1)
    assert np.array_equal(torch.cat([batch.images for batch in read(split)]), IMAGES)
    assert np.array_equal(split.labels, LABELS)


@KINDS
def test_nothing_is_left_of_a_split_smaller_than_a_batch(split):
    assert len(read(split, 24)) == 1


@KINDS
@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_bad_batch_size_is_refused_before_the_first_batch(split, batch_size):
    with pytest.raises(ArgumentError, match="batch_size: expected an integer of at least 1"):
        split.batches(batch_size, device="cpu", order_seed=None)


@KINDS
@pytest.mark.parametrize("seed", [-1, 0.5, False])
def test_a_bad_seed_is_refused_before_the_first_batch(split, seed):
    with pytest.raises(ArgumentError, match="order_seed: expected an integer of at least 0"):
        split.batches(4, device="cpu", order_seed=seed)


def test_resident_moves_and_streamed_has_nothing_to_move():
    moved = resident().to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
    split = streamed()
    assert split.to("meta") is split


def test_batches_come_on_the_device_that_was_asked_for():
    for split in (resident(), streamed()):
        for batch in read(split, device="meta"):
            assert (batch.images.device.type, batch.labels.device.type) == ("meta", "meta")
            assert batch.indices.device.type == "cpu"


@KINDS
@pytest.mark.parametrize(("start", "stop"), [(0, COUNT), (5, 6), (7, 20), (20, COUNT + 5)])
def test_a_part_is_a_split_of_its_own(split, start, stop):
    part = split.part(start, stop)
    assert len(part) == min(stop, COUNT) - start
    assert np.array_equal(part.labels, LABELS[start:stop])
    batches = read(part, 4)
    assert np.array_equal(torch.cat([batch.images for batch in batches]), IMAGES[start:stop])
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(len(part)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2).long(), "images: .*uint8.*got torch.float32"),
        (torch.zeros(2, 1, 8, 8).byte(), torch.zeros(2).long(), r"images: .*\[2, 1, 8, 8\]"),
        (torch.zeros(3, 8, 8).byte(), torch.zeros(3).long(), r"images: .*\[3, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8).byte(), torch.zeros(3).long(), r"labels: .*\[2\], got .*\[3\]"),
        (torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2), "labels: .*got torch.float32"),
    ],
)
def test_resident_refuses_what_are_no_labelled_images(images, labels, message):
    with pytest.raises(ArgumentError, match=message):
        ResidentSplit(images, labels)


@KINDS
def test_all_images_have_labels_and_come_once(split):
    assert split.labelled is split
    assert not split.repeats
    assert (split.steps(5), split.steps(23), split.steps(100)) == (5, 1, 1)
    batch = split.first(2, "cpu")
    assert np.array_equal(batch.images, IMAGES[:2])


def test_what_to_do_where_decoding_is_slow():
    assert "more workers (3 now)" in streamed(workers=3).loading_remedy
    many = StreamedSplit(ArrayPictures(IMAGES), np.zeros(10**7, dtype=int), torch.zeros(10**7))
    assert "memory_limit_gb above 1.9 that keeps" in many.loading_remedy
    assert "smaller image_size" in resident().loading_remedy


class Damaged(ArrayPictures):
    """One of the rows cannot be read."""

    def read(self, rows):
        if 7 in rows:
            raise DataError("row 7", expected="an image", got="none", remedy="replace it")
        return super().read(rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_a_plain_data_error_after_the_whole_batches(workers):
    split = StreamedSplit(
        Damaged(IMAGES), np.arange(COUNT), torch.from_numpy(LABELS), workers=workers
    )
    batches = split.batches(5, device="cpu", order_seed=None)
    assert next(batches).indices.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "row 7: expected an image, got none; replace it"
