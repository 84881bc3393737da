"""What a run records, and what is refused in its place."""

import dataclasses
import json

import pytest

from svdistill.common.errors import RunError
from svdistill.runs.records import environment, read_environment, read_records, read_summary
from tiny_runs import SUMMARY, record

DEEP = "[" * 100_000


def test_a_summary_says_where_it_lies_now(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(dataclasses.asdict(SUMMARY)))
    assert read_summary(tmp_path) == dataclasses.replace(SUMMARY, directory=str(tmp_path))


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "train"}', '{"more": 1}'])
def test_a_damaged_summary(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(RunError, match=r"summary\.json: "):
        read_summary(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]\n", b"{}\n", b'{"epoch": 1}\n', b"\xff", b"3\n"])
def test_damaged_metrics(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(RunError, match=r"metrics\.jsonl: "):
        read_records(tmp_path)


def test_no_run_at_all(tmp_path):
    for read in (read_summary, read_records):
        with pytest.raises(RunError, match="FileNotFoundError"):
            read(tmp_path)


def test_the_environment_can_be_written():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] >= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"),
        ("seed", 2**70),
        ("last_accuracy", "<script>"),
        ("last_accuracy", 10**400),
        ("width", float("nan")),
        ("network", "\ud800"),
        ("network", None),
        ("unheard_of", 1),
    ],
)
def test_a_summary_of_other_types_is_refused(tmp_path, field, value):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**dataclasses.asdict(SUMMARY), field: value}))
    with pytest.raises(RunError, match=field):
        read_summary(tmp_path)


@pytest.mark.parametrize("text", [DEEP, "[]", "1", "9" * 5000, "null", '{"a": {"b": {"c": 1}}}'])
def test_files_of_strangers_are_refused(tmp_path, text):
    for name in ("summary.json", "metrics.jsonl", "environment.json"):
        (tmp_path / name).write_text(text)
    for read in (read_summary, read_records):
        with pytest.raises(RunError):
            read(tmp_path)
    with pytest.raises(RunError):
        read_environment(tmp_path / "environment.json")


@pytest.mark.parametrize("field", ["epoch", "test_accuracy", "stage"])
def test_an_epoch_of_other_types_is_refused(tmp_path, field):
    lines = [dataclasses.asdict(record(0)), {**dataclasses.asdict(record(1)), field: [1]}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=f"{field}: expected"):
        read_records(tmp_path)
