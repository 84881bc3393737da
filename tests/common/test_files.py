import os
import stat

import pytest

from svdistill.common.errors import RunError
from svdistill.common.files import read_json, write_atomically, write_json


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    return path


def test_replaces_what_was_there(path):
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_whole_while_the_new_one_is_written(path):
    def write(temporary):
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across disks would not be atomic
        assert temporary != path

    write_atomically(path, write)
    assert path.read_text() == "half"


class Pulled(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("no"), Pulled(), KeyboardInterrupt()])
def test_the_old_file_stays_whole_when_writing_fails(path, error):
    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_a_run_error(path):
    def write(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"note\.txt: .*No space left.*space on its disk"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_fails_at_the_flush(path, monkeypatch):
    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="Input/output error"):
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_is_flushed_before_it_is_renamed(path, monkeypatch):
    seen, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(path.read_text()), fsync(fd)))
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert seen == ["old", "new"]  # the file, then the folder that has its new name


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match=r"absent/note\.txt: .*No such file"):
        write_json(tmp_path / "absent" / "note.txt", {})
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None], "b": "ä"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", None])
def test_damaged_json(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.json: expected a readable JSON file"):
        read_json(path)


def test_a_link_in_the_place_of_an_output_is_replaced_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "out.json").symlink_to(precious)
    write_json(tmp_path / "out.json", 1)
    assert precious.read_text() == "kept"
    assert read_json(tmp_path / "out.json") == 1
    assert not (tmp_path / "out.json").is_symlink()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "\xff", '{"a": 1} 2'])
def test_json_that_no_parser_survives_is_refused(tmp_path, text):
    path = tmp_path / "damaged.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match="a readable JSON file"):
        read_json(path)


def test_a_text_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # takes no space on disk
    with pytest.raises(RunError, match="more than 67,108,864 bytes"):
        read_json(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_follow_the_umask_whoever_writes(path, umask, mode):
    def private(temporary):
        temporary.unlink()
        temporary.write_text("new")
        temporary.chmod(0o600)

    before = os.umask(umask)
    try:
        write_atomically(path, private)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_pipe_is_neither_waited_for_nor_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for act in (read_json, lambda file: write_json(file, 1)):
        with pytest.raises(RunError, match="a pipe, no regular file"):
            act(pipe)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
