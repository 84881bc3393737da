import gc
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from stores import KINDS, flipped, knowledge, rows_of, write_store
from svdistill.common.errors import ArgumentError, RunError
from svdistill.store import KnowledgeStore


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
