"""README.md and docs/ say what the committed results say."""

import functools
import importlib.util
import json
from pathlib import Path

import pytest

from made_runs import made_run, written
from svdistill.report import find_runs
from svdistill.runs.records import read_records, read_summary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def write_tables():
    path = ROOT / "benchmarks" / "write_tables.py"
    spec = importlib.util.spec_from_file_location("write_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = functools.cache(find_runs)
    module.find_runs = lambda folders: found(tuple(folders))  # read once for all tables
    return module


@pytest.mark.parametrize(
    ("page", "at_least"),
    [
        ("README.md", 1),
        ("docs/accuracy.md", 1),
        ("docs/networks.md", 1),
        ("docs/speed.md", 3),
        ("docs/findings.md", 2),
        ("docs/all_runs.md", 10),
        ("docs/reliability.md", 3),
    ],
)
def test_pages_hold_the_tables_of_the_results(write_tables, page, at_least):
    assert page in write_tables.PAGES
    text = (ROOT / page).read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->") >= at_least
    assert write_tables.with_tables(text) == text


def test_a_table_is_made_from_its_result(write_tables):
    made = write_tables.with_tables("before <!-- table: step -->anything<!-- end --> after")
    assert made.startswith("before <!-- table: step -->\n\n**vgg_teacher to vgg_student")
    assert "| SVD, straightforward |" in made
    assert "anything" not in made


def test_a_pair_on_two_data_sets_is_told(write_tables, tmp_path, monkeypatch):
    monkeypatch.setattr(write_tables, "RESULTS", tmp_path)
    written(made_run(str(tmp_path / "preset" / "vgg" / "student-0")))
    assert write_tables.methods_by_name("preset").keys() == {"VGG"}
    other = {"data": "digits", "classes": "rest:5@0"}
    written(made_run(str(tmp_path / "two" / "vgg" / "student-0")))
    written(made_run(str(tmp_path / "two" / "domains" / "vgg" / "student-0"), **other))
    with pytest.raises(ValueError, match=r"results/two: expected runs of VGG on one data set"):
        write_tables.methods_by_name("two")


def test_what_must_not_happen_has_not_happened(write_tables):
    """The committed figures of reliability: none of them is hidden by its table."""
    folder = ROOT / "benchmarks" / "results" / "reliability"
    kills = json.loads((folder / "kills.json").read_text())["cases"]
    assert sum(row["kills"] for row in kills) >= 50
    assert all(row["within_an_epoch"] > 0 for row in kills)
    assert all(row["differ"] == row["damaged"] == 0 for row in kills)
    kinds = json.loads((folder / "mutations.json").read_text())["kinds"]
    assert all(row["traceback"] == row["crash"] == row["hang"] == 0 for row in kinds)
    assert all(row["other"] == 0 for row in kinds if row["checksum"])
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["cases"] >= 10_000
    assert numbers["failures"] == []
    assert "| all | 10,000 | " in write_tables.with_tables("<!-- table: numbers --><!-- end -->")
    total = f"| all | {sum(row['runs'] for row in kills)} | {sum(row['kills'] for row in kills)} |"
    assert total in write_tables.reliability_table("kills")
    assert "| checkpoint | SHA-256 | 1,000 |" in write_tables.reliability_table("mutations")


@pytest.mark.parametrize("name", ["demo", "cifar100-short"])
def test_every_committed_run_is_in_its_table(write_tables, name):
    listed = {path for _, path in write_tables.runs_of(name)}
    stored = {path.parent for path in (ROOT / "results" / name).glob("*/summary.json")}
    assert listed == stored
    assert stored


def test_every_method_of_the_preset_mini_is_in_its_table(write_tables):
    runs = write_tables.find_runs([ROOT / "results" / "mini"])
    for pair in {run.pair for run in runs if not run.is_teacher}:
        rows = write_tables.pair_table("mini", pair).splitlines()[2:]
        names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
        expected = {run.row for run in runs if run.pair == pair and not run.is_teacher}
        assert len(names) == len(set(names)) == len(expected) + 1
        assert names[0] == "teacher"
        means = [float(row.split(" | ")[1].split(" ")[0]) for row in rows[1:]]
        assert means == sorted(means, reverse=True)


def test_committed_summaries_agree_with_their_metrics(write_tables):
    found = [path for name in ("demo", "cifar100-short") for _, path in write_tables.runs_of(name)]
    found += [run.path for run in write_tables.find_runs([ROOT / "results" / "mini"])]
    for path in found:
        summary, records = read_summary(path), read_records(path)
        assert summary.epochs == len(records)
        assert summary.last_accuracy == records[-1].test_accuracy
        assert summary.best_accuracy == max(record.test_accuracy for record in records)
