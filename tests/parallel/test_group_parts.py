import pytest
import torch

from svdistill.data import UNLABELLED, images_from_loaders, load_images
from svdistill.parallel import ALONE, BatchPart, Share


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_parts_make_up_the_batch(size, count):
    batch = torch.arange(count) + 10
    counted = [
        place
        for share in (Share(rank, size) for rank in range(size))
        for place in share.take(batch).tolist()
        if not (size > 1 and share.part(count, count).stand_in)
    ]
    assert sorted(counted) == batch.tolist()
    assert all(len(Share(rank, size).take(batch)) > 0 for rank in range(size))


def test_whoever_is_alone_has_the_batch_itself():
    batch = torch.arange(3)
    assert ALONE.take(batch) is batch
    assert ALONE.part(3, 3) is None


def test_factors_put_means_and_sums_together():
    values = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taken = [(Share(rank, 3).take(values), Share(rank, 3).part(7, 7)) for rank in range(3)]
    means = [part.of_mean(len(own)) * own.mean() for own, part in taken]
    sums = [part.of_sum() * own.sum() for own, part in taken]
    labelled = [part.of_labelled() * own.sum() for own, part in taken]
    torch.testing.assert_close(torch.stack(means).mean(), values.mean())
    torch.testing.assert_close(torch.stack(sums).mean(), values.sum())
    torch.testing.assert_close(torch.stack(labelled).mean(), values.mean())


def test_a_stand_in_counts_for_nothing():
    part = BatchPart(images=1, labelled=1, processes=2, stand_in=True)
    assert part.of_sum() == part.of_mean(1) == part.of_labelled() == 0
    assert BatchPart(images=2, labelled=0, processes=2).of_labelled() == 2  # of a sum that is zero


def everything(split, size):
    """Labels and indices of each whole batch, from the parts of so many processes."""
    parts = [
        list(split.batches(8, device="cpu", order_seed=3, share=Share(rank, size)))
        for rank in range(size)
    ]
    for several in zip(*parts, strict=True):
        (images, labelled) = {batch.part[:2] for batch in several}.pop()
        own = [batch for batch in several if not batch.part.stand_in]
        labels = torch.cat([batch.labels for batch in own])
        assert images == len(labels)
        assert labelled == int((labels != UNLABELLED).sum())
        yield sorted(torch.cat([batch.indices for batch in own]).tolist())


def prepared(train_images):
    images = torch.rand(train_images, 3, 8, 8)
    labels = torch.arange(train_images) % 3 - 1
    pairs = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True)
    test = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels + 1))
    return images_from_loaders(loader, test, ["a", "b", "c"]).train


@pytest.mark.parametrize("kind", ["resident", "streamed", "mixed", "loader"])
def test_every_kind_of_split_is_shared(kind):
    options = {
        "resident": {},
        "streamed": {"memory_limit_gb": 0.0, "workers": 0},
        "mixed": {"unlabelled": "rest"},
        "loader": None,
    }[kind]
    split = (
        prepared(25) if options is None else load_images("digits", train_size=25, **options).train
    )
    whole = split.batches(8, device="cpu", order_seed=3)
    expected = [sorted(batch.indices.tolist()) for batch in whole]
    assert list(everything(split, 2)) == expected
    assert list(everything(split, 3)) == expected


def test_what_has_labels_is_spread_over_the_processes():
    split = load_images("digits", train_size=100, unlabelled="rest").train
    batches = split.batches(8, device="cpu", order_seed=0, share=Share(1, 2))
    kinds = [int((batch.labels == UNLABELLED).sum()) for batch in batches]
    assert set(kinds[:-1]) == {2}  # the last batch is smaller
