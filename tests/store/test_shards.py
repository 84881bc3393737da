import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stores import batches, flipped, knowledge, manifest, snapshot, write_store
from svdistill.common.errors import RunError
from svdistill.store import KnowledgeStore, StoreWriter

VIEWS = [knowledge(seed=0), knowledge(seed=1)]
KILLED = """
import os, signal, sys
from stores import batches, knowledge, manifest
from svdistill.store import StoreWriter

views = [knowledge(seed=0), knowledge(seed=1)]
writer = StoreWriter(sys.argv[1], manifest(views[0]))

def then_killed(shard):
    for number, batch in enumerate(batches(views, shard)):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

for number, shard in enumerate(writer.open(resume=False)):
    writer.write(shard, then_killed(shard) if number == 5 else batches(views, shard))
"""


@pytest.fixture
def store(tmp_path):
    write_store(tmp_path / "store", VIEWS)
    return tmp_path / "store"


def resume(path, **changes):
    """Go on with a store; how many shards were written."""
    writer = StoreWriter(path, manifest(VIEWS[0], **changes))
    shards = writer.open(resume=True)
    for shard in shards:
        writer.write(shard, batches(VIEWS, shard))
    writer.finish(teacher_accuracy=87.5)
    return len(shards)


def test_a_store_is_a_manifest_and_shards(store):
    assert sorted(snapshot(store)) == [
        "manifest.json",
        *(f"view-{view:04d}-from-{start:09d}.bin" for view in (0, 1) for start in (0, 16, 32, 48)),
    ]


def test_a_killed_writer_goes_on_and_writes_the_same_bytes(store, tmp_path):
    path = tmp_path / "killed"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", KILLED, path], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = snapshot(path)
    assert len([name for name in left if name.endswith(".bin")]) == 5
    assert len([name for name in left if name.endswith(".tmp")]) == 1
    with pytest.raises(RunError, match=r"not finished; .*--resume"):
        KnowledgeStore(path)
    assert resume(path) == 3
    assert snapshot(path) == snapshot(store)


def test_a_whole_store_is_left_as_it_is(store):
    before = {file: file.stat().st_mtime_ns for file in store.glob("*.bin")}
    assert resume(store) == 0
    assert {file: file.stat().st_mtime_ns for file in store.glob("*.bin")} == before


def test_a_store_of_a_teacher_and_images_that_have_moved_goes_on(store):
    before = snapshot(store)
    sorted(store.glob("*.bin"))[2].unlink()
    assert resume(store, teacher="moved/teacher", data="folder:moved") == 1
    assert snapshot(store) == before
    refuses(store, "^teacher: expected .* as in", go_on=True, teacher="runs/teacher in bf16")


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "gone", "swapped"])
def test_what_is_damaged_is_written_anew(store, damage):
    before = snapshot(store)
    first, second, *_ = sorted(store.glob("*.bin"))
    content = first.read_bytes()
    if damage == "flipped":
        first.write_bytes(flipped(content, 1234))
    elif damage == "cut":
        first.write_bytes(content[:-1])
    elif damage == "longer":
        first.write_bytes(content + b"0")
    elif damage == "gone":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes())
    assert resume(store) == 1
    assert snapshot(store) == before


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".manifest.json.77.tmp").write_text("{")
    write_store(tmp_path / "store", VIEWS)
    assert len(KnowledgeStore(tmp_path / "store")) == 50


def refuses(path, match, *, go_on, **changes):
    before = snapshot(path)
    with pytest.raises(RunError, match=match):
        StoreWriter(path, manifest(VIEWS[0], **changes)).open(resume=go_on)
    assert snapshot(path) == before


def test_a_finished_store_is_not_overwritten(store):
    refuses(store, "a finished store; .*--resume", go_on=False)


def test_an_unfinished_store_is_not_overwritten(tmp_path):
    StoreWriter(tmp_path, manifest(VIEWS[0])).open(resume=False)
    refuses(tmp_path, "an unfinished store; .*--resume", go_on=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("teacher_sha256", "other"), ("loss", "FSPLoss()"), ("views", 3), ("data_fingerprint", "x")],
)
def test_another_store_is_not_gone_on_with(store, name, value):
    refuses(store, rf"^{name}: expected .* as in .*same command", go_on=True, **{name: value})


@pytest.mark.parametrize("go_on", [True, False])
def test_something_else_is_not_overwritten(tmp_path, go_on):
    (tmp_path / "notes.txt").write_text("mine")
    refuses(tmp_path, "something else", go_on=go_on)


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="Not a directory"):
        StoreWriter(tmp_path / "file" / "store", manifest(VIEWS[0])).open(resume=False)


def test_a_number_that_does_not_fit_leaves_no_shard(tmp_path):
    writer = StoreWriter(tmp_path, manifest(VIEWS[0], dtype="float16"))
    first = writer.open(resume=False)[0]
    large = VIEWS[0].map(lambda tensor: tensor * 1e6)
    with pytest.raises(RunError, match=r"right_vectors\[1\]: .*use float32"):
        writer.write(first, batches([large], first))
    assert list(snapshot(tmp_path)) == ["manifest.json"]


def test_what_a_shard_links_to_is_left_alone(store, tmp_path):
    shard = sorted(store.glob("*.bin"))[0]
    precious = tmp_path / "precious"
    precious.write_bytes(b"not a shard")
    content = shard.read_bytes()
    shard.unlink()
    shard.symlink_to(precious)
    with pytest.raises(RunError, match="bytes where there should be"):
        KnowledgeStore(store)
    assert resume(store) == 1
    assert precious.read_bytes() == b"not a shard"
    assert not shard.is_symlink()
    assert shard.read_bytes() == content


def test_two_writers_at_once(store):
    """Also of a finished store, of which a damaged shard may be written anew."""
    writer = StoreWriter(store, manifest(VIEWS[0]))
    before = snapshot(store)
    with writer.locked(resume=True) as shards:
        assert shards == []
        with (
            pytest.raises(RunError, match=r"held by process \d+ on .*; wait until that has ended"),
            StoreWriter(store, manifest(VIEWS[0])).locked(resume=True),
        ):
            pytest.fail("it was not refused")
    assert snapshot(store) == before
