import gc
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from stores import KINDS, flipped, knowledge, manifest, rows_of, write_store
from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import load_images
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.store import KnowledgeStore, describe, loss_text, require_fit


def views(kind="sum"):
    return [knowledge(kind, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    write_store(path, views())
    return KnowledgeStore(path)


@pytest.fixture
def path(tmp_path):
    write_store(tmp_path / "store", views())
    return tmp_path / "store"


def assert_same(read, expected):
    assert type(read) is type(expected)
    for one, other in zip(read.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one, other)


@given(st.lists(st.integers(0, 49), max_size=60), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_any_batch_of_any_view(store, rows, view):
    indices = torch.tensor(rows, dtype=torch.int64)
    assert_same(store.read(indices, view), rows_of(views()[view], indices))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_knowledge(tmp_path, kind):
    write_store(tmp_path, views(kind))
    found = KnowledgeStore(tmp_path).read(torch.arange(50), 1)
    assert_same(found, views(kind)[1])


def test_half_precision_is_read_as_float32(tmp_path):
    write_store(tmp_path, views("fsp"), dtype="float16")
    found = KnowledgeStore(tmp_path).read(torch.tensor([3, 1]), 0)
    expected = rows_of(views("fsp")[0], [3, 1]).map(lambda tensor: tensor.half().float())
    assert_same(found, expected)


def test_says_what_it_holds(store):
    assert len(store) == 50
    assert store.bytes_per_image == store.manifest.bytes_per_image == 672
    assert store.manifest.teacher_accuracy == 87.5


def test_what_is_read_may_be_written_to(store):
    store.read(torch.tensor([5]), 0).tensors()[0].fill_(7)
    assert_same(store.read(torch.tensor([5]), 0), rows_of(views()[0], [5]))


@pytest.mark.parametrize(
    ("rows", "view", "match"),
    [
        ([50], 0, "indices: expected 0 to 49, which .*got 50"),
        ([3, -1], 0, "indices: .*got -1"),
        ([0], 3, "view: expected 0 to 2, .*got 3"),
        ([0], -1, "view: .*got -1"),
    ],
)
def test_what_it_does_not_hold(store, rows, view, match):
    with pytest.raises(ArgumentError, match=match):
        store.read(torch.tensor(rows), view)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_keeps_no_file_open(store):
    def open_files():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    store.read(torch.arange(50), 0)
    assert open_files() == before


@pytest.mark.parametrize("damage", ["gone", "cut", "longer"])
def test_missing_bytes_are_noticed_on_opening(path, damage):
    last = sorted(path.glob("*.bin"))[-1]
    content = last.read_bytes()
    last.unlink()
    if damage != "gone":
        last.write_bytes(content[:-1] if damage == "cut" else content + b"0")
    with pytest.raises(
        RunError, match=rf"{re.escape(last.name)}: expected a whole shard.*--resume"
    ):
        KnowledgeStore(path)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_flipped_bit_is_noticed_on_reading(path, place):
    third = sorted(path.glob("view-0001-*.bin"))[2]
    content = third.read_bytes()
    third.write_bytes(flipped(content, place % len(content)))
    store = KnowledgeStore(path)
    store.read(torch.arange(32), 1)
    with pytest.raises(RunError, match=rf"{re.escape(third.name)}: .*checksum is wrong.*--resume"):
        store.read(torch.tensor([33]), 1)


def test_a_shard_of_another_store_is_noticed(path, tmp_path):
    write_store(tmp_path / "other", views(), teacher_sha256="other")
    name = "view-0000-from-000000016.bin"
    (path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(RunError, match="checksum is wrong"):
        KnowledgeStore(path).read(torch.tensor([20]), 0)


def test_no_store(tmp_path):
    with pytest.raises(RunError, match=r"manifest\.json: "):
        KnowledgeStore(tmp_path / "nowhere")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_reads_to_the_gpu(store):
    rows = torch.tensor([40, 2, 2, 17])
    found = store.read(rows, 1, "cuda")
    assert {tensor.device.type for tensor in found.tensors()} == {"cuda"}
    assert_same(found.map(torch.Tensor.cpu), rows_of(views()[1], rows))


# Whether a store fits a run


@pytest.fixture(scope="module")
def data():
    return load_images("digits", train_size=100)


@pytest.fixture
def fitting(data):
    return manifest(
        knowledge(),
        data_fingerprint=data.fingerprint,
        images=100,
        class_names=data.class_names,
        loss=loss_text(SVDLoss()),
    )


def test_what_fits(fitting, data):
    require_fit(fitting, data, SVDLoss(), "paper")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("class_names", ("cat", "dog"), r"^classes: expected 2 classes: cat, dog as in the"),
        ("image_size", 32, "^image_size: expected 32 as .*got 16; give the store's image_size"),
        ("images", 50, "^train_size: expected 50 as .*got 100"),
        ("data_fingerprint", "other", "^data: expected other as in the knowledge store"),
        ("augmentation", "none", "^augmentation: expected none as .*got paper; .*or make a store"),
    ],
)
def test_each_mismatch_is_named(fitting, data, name, value, match):
    with pytest.raises(RunError, match=match):
        require_fit(replace(fitting, **{name: value}), data, SVDLoss(), "paper")


SVD, SOFT = SVDLoss(), SoftTargetLoss()


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("svd", SVDLoss(1)),
        ("svd", SVDLoss(2, beta=3.0, gradient="poster", reduction="mean")),
        ("fsp", FSPLoss()),
        ("soft_target", SoftTargetLoss(2.0)),
        ("soft_target", SumLoss([SOFT], [3.0])),
        ("sum", SVDLoss(2)),
        ("sum", SOFT),
        ("sum", SumLoss([SVD, SOFT], [1.0, 0.25])),
        ("sum", SumLoss([SOFT, SVD], [1.0, 0.25])),
    ],
)
def test_every_loss_that_needs_no_more_than_the_store_holds(fitting, data, kind, loss):
    require_fit(
        replace(fitting, structure=describe(knowledge(kind), "float16")), data, loss, "paper"
    )


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("svd", SVDLoss(3)),
        ("svd", FSPLoss()),
        ("svd", SOFT),
        ("svd", SumLoss([SVD, SOFT], [1.0, 1.0])),
        ("fsp", SVD),
        ("soft_target", SVD),
        ("sum", SVDLoss(3)),
        ("sum", FSPLoss()),
        ("sum", SumLoss([SVDLoss(3), SOFT], [1.0, 1.0])),
        ("sum", SumLoss([FSPLoss(), SOFT], [1.0, 1.0])),
    ],
)
def test_a_loss_that_needs_more_is_refused_and_both_are_named(fitting, data, kind, loss):
    changes = {"structure": describe(knowledge(kind), "float16"), "loss": f"AllOf({kind})"}
    with pytest.raises(RunError) as error:
        require_fit(replace(fitting, **changes), data, loss, "paper")
    assert str(error.value).startswith("loss: expected one that needs no more than the knowledge")
    assert f"AllOf({kind}), got {loss_text(loss)}; " in str(error.value)


def test_losses_differ_in_their_options():
    losses = [
        SVDLoss(),
        SVDLoss(num_vectors=2),
        FSPLoss(),
        SoftTargetLoss(),
        SoftTargetLoss(2.0),
        SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 1.0]),
        SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 0.5]),
        SumLoss([FSPLoss(), SoftTargetLoss()], [1.0, 1.0]),
    ]
    texts = {loss_text(loss) for loss in losses}
    assert len(texts) == len(losses)
    assert not any("\n" in text for text in texts)
