"""Output that nobody reads any more, and log messages."""

import logging
import os
import subprocess
import sys

import pytest

from svdistill.cli.processes import LastingStream, lasting_output, text_logs


@pytest.fixture
def unread():
    """A pipe without a reader, as a text stream."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        yield stream


def test_a_reader_that_has_gone_is_told_once_and_ends_nothing(unread, capsys):
    stream = LastingStream(unread, "standard output", sys.stdout)
    for _ in range(2):
        stream.write("line\n")
        stream.flush()
    assert stream.lost
    told = capsys.readouterr().out
    assert told.count("standard output cannot be written (Broken pipe)") == 1


def test_what_the_encoding_lacks_is_written_out(tmp_path):
    with (tmp_path / "file").open("w", encoding="ascii") as file:
        LastingStream(file, "it", None).write("caf\u00e9 \ud800")
    assert (tmp_path / "file").read_text() == r"caf\xe9 \ud800"


def test_streams_come_back(capsys):
    before = sys.stdout, sys.stderr
    with lasting_output() as output:
        assert sys.stdout is output
        print("line")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "line\n"


def test_log_messages_are_text(caplog):
    with text_logs():
        logging.getLogger("library").warning("class %s", "\x1b[2J")
    logging.getLogger("library").warning("class %s", "\x1b[2J")
    assert [record.getMessage() for record in caplog.records] == [r"class \x1b[2J", "class \x1b[2J"]


def test_a_result_that_nobody_reads_has_a_status_of_its_own(unread):
    command = [sys.executable, "-m", "svdistill", "info", "vgg_student"]
    done = subprocess.run(command, stdout=unread, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 141
    assert len(done.stderr.splitlines()) == 1
    assert "Broken pipe" in done.stderr
