"""Texts that can name no file: one line and exit status 2, whatever the option."""

import os

import pytest

from svdistill.cli import main


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "PIPE"],
        ["train", "--output", "PIPE"],
        ["train", "--output", "OUT", "--data", "parquet:PIPE"],
        ["distill", "--teacher", "PIPE", "--output", "OUT"],
        ["evaluate", "PIPE"],
        ["report", "PIPE"],
        ["report", "RUNS", "--output", "PIPE"],
        ["evaluate", os.devnull],
        ["evaluate", "x" * 300],
        ["train", "--output", "x" * 300],
        ["train", "--config", "x" * 300],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_pipes_devices_and_long_names(words, pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("PIPE", pipe) for word in words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_nul_in_a_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text('output: "a\\0b"\n')
    assert main(["train", "--config", "config.yaml"]) == 2
    assert "output: expected text" in capsys.readouterr().err
