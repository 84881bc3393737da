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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file; write `option: value` lines"),
        ("# epochs: 3\n", "an empty file; write"),
        ("- a\n- b\n", "a list; write"),
        ("epochs\n", "text alone; write"),
        ("output: x\nepochz: 3\n", "the unknown option 'epochz'; did you mean '--epochs'?"),
        ("1: 3\n", "the unknown option 1; choose from"),
        (None, "nothing at this path; check the path"),
    ],
)
def test_a_file_without_options(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "some.yaml").write_text(content)
    assert main(["train", "--config", "some.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"config some.yaml: expected a YAML file with options, got {message}" in said
    assert said.count("\n") == 1


def test_a_folder_instead_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert main(["train", "--config", "run"]) == 2
    said = capsys.readouterr().err
    assert "config run: expected a YAML file with options, got a folder; name a file in it" in said
