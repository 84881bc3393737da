from dataclasses import replace

import yaml

from made_runs import compared, made_run
from svdistill.config import TrainConfig
from svdistill.report.page import configurations, machines


def test_a_row_lists_its_runs_and_what_makes_them_again() -> None:
    runs = [made_run(f"runs/{seed}", seed=seed, epochs=7, data="digits") for seed in (0, 1)]
    (row,) = configurations(compared(*runs))
    assert row.runs.title == "VGG, student alone"
    assert [cells[0].text for cells in row.runs.rows] == ["runs/0", "runs/1"]
    assert [cells[1].text for cells in row.runs.rows] == ["0", "1"]
    assert [cells[2].text for cells in row.runs.rows] == ["20.00", "20.00"]
    options = yaml.safe_load(row.options)
    assert "seed" not in options
    assert TrainConfig(output="runs/1", seed=1, **options) == TrainConfig(**runs[1].config)


def test_a_machine_is_listed_once_for_all_its_runs() -> None:
    run = made_run("a")
    same = replace(run, environment={**run.environment, "data_fingerprint": "abc", "loss": "A()"})
    packages = {**run.environment["packages"], "torch": "9.9"}
    other = replace(run, environment={**run.environment, "packages": packages})
    found = machines([run, same, other])
    assert list(found.values()) == [2, 1]
    facts = dict(list(found)[1])
    assert facts["torch"] == "9.9"
    assert facts["python"] == run.environment["python"]
    assert "packages" not in facts
    assert "data_fingerprint" not in facts
    assert "loss" not in facts


def test_what_was_given_in_python_is_named() -> None:
    (row,) = configurations(
        compared(made_run("a", "object", data="object", loss="svd", teacher="t"))
    )
    assert row.given == ("network", "data")
    assert configurations(compared(made_run("b")))[0].given == ()
