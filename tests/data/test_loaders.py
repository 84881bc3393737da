import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from svdistill.common.errors import ArgumentError
from svdistill.data import UNLABELLED, LoaderSplit, NoAugmentation, images_from_loaders
from svdistill.data.loaders import PrivateRandomStates

COUNT = 11
IMAGES = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(COUNT) % 3
NAMES = ("ant", "bee", "cat")


def loader(images=IMAGES, labels=LABELS, **options):
    return DataLoader(TensorDataset(images, labels), **{"batch_size": 4, **options})


def read(source, order_seed=0, **options):
    split = LoaderSplit(source, len(NAMES), **options)
    return list(split.batches(999, device="cpu", order_seed=order_seed))


def images_of(batches):
    return torch.cat([batch.images for batch in batches])


def test_views_order_and_batches_are_the_loaders():
    batches = read(loader())
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    assert torch.equal(images_of(batches), IMAGES)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), LABELS)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(COUNT))
    split = LoaderSplit(loader(), 3)
    assert (len(split), split.steps(999), split.repeats) == (COUNT, 3, False)
    assert split.to("meta") is split
    assert split.labelled is split
    assert LoaderSplit(loader(drop_last=True), 3).steps(1) == 2


class Random(Dataset):
    """Images with random transforms, by whatever people draw from."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        noise = float(torch.rand(())) + np.random.rand() + random.random()  # noqa: NPY002
        return IMAGES[index] + noise, int(LABELS[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_equal_seeds_shuffle_and_transform_equally(workers):
    source = DataLoader(Random(), batch_size=4, shuffle=True, num_workers=workers)
    found = []
    for seed in (1, 1, 2):
        torch.rand(3)  # what others draw before and between does not matter
        batches = []
        for batch in LoaderSplit(source, 3).batches(4, device="cpu", order_seed=seed):
            torch.rand(5)
            batches.append(batch)
        found.append(images_of(batches))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_others_draw_as_if_there_were_no_loader():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches = LoaderSplit(loader(shuffle=True), 3).batches(4, device="cpu", order_seed=0)
    drawn = [torch.rand(()) for _ in batches]
    assert torch.equal(torch.stack(drawn), expected)


def test_an_evaluation_has_one_order():
    source = loader(shuffle=True)
    assert torch.equal(images_of(read(source, None)), images_of(read(source, None)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floats_become_float32(dtype):
    batches = read(loader(IMAGES.to(dtype)))
    assert {batch.images.dtype for batch in batches} == {torch.float32}


def test_the_first_images():
    batch = LoaderSplit(loader(), 3).first(2, "cpu")
    assert torch.equal(batch.images, IMAGES[:2])
    assert batch.labels.tolist() == [0, 1]


class Yielding(IterableDataset):
    def __init__(self, *items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


def as_it_is(*items):
    return DataLoader(Yielding(*items), batch_size=None)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"image": IMAGES, "label": LABELS},
            r"\(images, labels\), got dict with the keys 'im",
        ),
        (
            IMAGES,
            r"expected batches \(images, labels\), got torch.float32 of shape \[11, 3, 8, 8\]",
        ),
        ((IMAGES, LABELS, LABELS), r"got list of torch.float32 of .*; give it a collate_fn"),
        ((IMAGES.byte(), LABELS), r"expected floats of shape .* got torch.uint8 .*; convert"),
        (
            (IMAGES[:, :1], LABELS),
            r"expected floats of .* got torch.float32 of shape \[11, 1, 8, 8",
        ),
        ((IMAGES[0], LABELS), r"expected floats of .* got torch.float32 of shape \[3, 8, 8\]"),
        (("ant", LABELS), "expected floats of .* got str"),
        ((IMAGES, LABELS.int()), r"expected int64 of shape \[11\] .*, got torch.int32"),
        (
            (IMAGES, LABELS.float()),
            r"expected int64 .*, got torch.float32 .*; give one class number",
        ),
        (
            (IMAGES, LABELS[:5]),
            r"expected int64 of shape \[11\] .*, got torch.int64 of shape \[5\]",
        ),
        ((IMAGES, LABELS.tolist()), r"expected int64 .*, got list of int, int"),
        ((IMAGES, LABELS + 1), "expected labels 0 to 2, got 3; number the classes as class_names"),
        ((IMAGES, LABELS - 1), "expected labels 0 to 2, got -1"),
    ],
)
def test_batches_of_something_else(item, message):
    with pytest.raises(ArgumentError, match=f"loader: .*{message}"):
        read(as_it_is(item))


def test_images_without_labels_are_for_training():
    batches = read(as_it_is((IMAGES, LABELS - 1)), least_label=UNLABELLED)
    assert int(batches[0].labels.min()) == UNLABELLED


def test_a_loader_without_a_length_and_one_without_batches():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ArgumentError, match="loader: expected a DataLoader with a length"):
        LoaderSplit(DataLoader(Endless()), 3)
    with pytest.raises(
        ArgumentError, match=r"loader: expected at least one batch, got none; .*drop"
    ):
        LoaderSplit(loader(batch_size=20, drop_last=True), 3)


def test_no_knowledge_store_can_be_made_of_it():
    with pytest.raises(
        ArgumentError, match=r"data: .*stays, for a knowledge store, got a DataLoad"
    ):
        LoaderSplit(loader(), 3).part(0, 2)


def test_a_bad_seed_is_refused_before_the_first_batch():
    with pytest.raises(ArgumentError, match="order_seed: expected an integer of at least 0"):
        LoaderSplit(loader(), 3).batches(4, device="cpu", order_seed=-1)


def test_batches_come_on_the_device_that_was_asked_for():
    (batch, *_) = LoaderSplit(loader(), 3).batches(4, device="meta", order_seed=0)
    assert (batch.images.device.type, batch.labels.device.type) == ("meta", "meta")
    assert batch.indices.device.type == "cpu"


# The data set


def test_what_the_loaders_are():
    data = images_from_loaders(loader(shuffle=True), loader(batch_size=5), NAMES, std=(0.5,) * 3)
    assert (data.class_names, data.num_classes, data.image_shape) == (NAMES, 3, (3, 8, 8))
    assert (len(data.train), len(data.test), data.dev) == (COUNT, COUNT, None)
    assert (data.train.steps(1), data.test.steps(1)) == (3, 3)
    assert (data.mean, data.std) == ((0.0,) * 3, (0.5,) * 3)
    assert "more num_workers (0 now)" in data.train.loading_remedy


def test_nothing_of_ours_is_done_to_the_images():
    data = images_from_loaders(loader(), loader(), NAMES)
    prepared = data.augmentation("paper")
    assert isinstance(prepared, NoAugmentation)
    assert prepared(IMAGES, seed=0, indices=LABELS, view=3) is IMAGES
    assert prepared.normalise(IMAGES) is IMAGES


def test_only_the_training_loader_may_have_images_without_labels():
    source = loader(labels=LABELS - 1)
    images_from_loaders(source, loader(), NAMES)
    with pytest.raises(ArgumentError, match="expected labels 0 to 2, got -1"):
        images_from_loaders(loader(), source, NAMES)


def test_the_fingerprint_tells_names_numbers_and_shape():
    smaller, other = loader(IMAGES[:7], LABELS[:7]), loader(torch.zeros(COUNT, 3, 9, 9))
    prints = [
        images_from_loaders(train, test, names).fingerprint
        for train, test, names in (
            (loader(), loader(), NAMES),
            (smaller, loader(), NAMES),
            (loader(), smaller, NAMES),
            (other, other, NAMES),
            (loader(), loader(), ("ant", "bee", "cow")),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert images_from_loaders(loader(), loader(), NAMES).fingerprint == prints[0]


def test_a_single_class():
    with pytest.raises(ArgumentError, match="class_names: expected 2 or more, got 1"):
        images_from_loaders(loader(), loader(), ["ant"])


# Random states


def drawn():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def test_the_same_seed_draws_the_same_again_and_leaves_no_trace():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    untouched = drawn()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    found = []
    for seed in (5, 5, 6):
        states = PrivateRandomStates(seed)
        with states.installed():
            first = drawn()
        with states.installed():
            found.append((first, drawn()))
    assert drawn() == untouched
    assert found[0] == found[1]
    for part in range(3):
        assert len({str(pair[turn][part]) for pair in found for turn in (0, 1)}) == 4


def test_states_come_back_after_an_error():
    def fail():
        with PrivateRandomStates(2**63 - 1).installed():
            torch.rand(1)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
