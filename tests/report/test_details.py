from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from made_runs import compared, made_run
from svdistill.config import TrainConfig
from svdistill.report.details import configurations, image_facts, machines
from svdistill.report.networks import card_of
from svdistill.report.runs import Run


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
    same = replace(run, environment={**run.environment, "data_fingerprint": "abc"})
    packages = {**run.environment["packages"], "torch": "9.9"}
    other = replace(run, environment={**run.environment, "packages": packages})
    first, second = machines([run, same, other])
    assert (first.runs, second.runs) == (2, 1)
    facts = dict(second.facts)
    assert facts["torch"] == "9.9"
    assert facts["python"] == run.environment["python"]
    assert "packages" not in facts
    assert "data_fingerprint" not in facts


def test_what_was_given_in_python_is_named() -> None:
    (row,) = configurations(
        compared(made_run("a", "object", data="object", loss="svd", teacher="t"))
    )
    assert row.given == ("network", "data")
    assert configurations(compared(made_run("b")))[0].given == ()


def facts(run: Run, **config: object) -> dict[str, str]:
    return dict(image_facts(replace(run, config={**run.config, **config})).facts)


def test_images_are_described_as_the_networks_saw_them(distilled: Run) -> None:
    found = facts(distilled)
    assert found["images"] == "digits"
    assert found["trained on"] == "100 of the training images"
    assert found["classes"] == "10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert found["size"] == "16x16 pixels"
    assert len(found["mean of the channels"].split()) == 3
    assert found["augmentation"] == "none"


def test_unlabelled_and_held_out_images_are_named(distilled: Run) -> None:
    found = facts(distilled, train_size=None, dev_fraction=0.1, unlabelled="folder:more")
    assert found["trained on"] == (
        "all training images, 10% of them held out to choose the best epoch, "
        "and without their labels on folder:more"
    )
    assert facts(distilled, classes_every=5)["of these"] == "one class in 5"
    assert "of these" not in found
    assert "those that are left" in facts(distilled, unlabelled="rest")["trained on"]


def test_images_given_in_python_may_have_come_prepared(distilled: Run) -> None:
    found = facts(distilled, data="object")
    assert found["images"] == "given in Python"
    assert "trained on" not in found
    assert found["augmentation"] == "none, unless they came prepared"


def test_without_weights_less_is_known(tmp_path: Path) -> None:
    found = facts(made_run(str(tmp_path), side=48))
    assert (found["classes"], found["size"]) == ("10", "48x48 pixels")
    assert found["mean of the channels"] == "not known"


def test_not_all_of_many_classes_are_named(distilled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"kind {number}" for number in range(1000))
    many = replace(card_of(distilled), class_names=names)
    monkeypatch.setattr("svdistill.report.details.card_of", lambda run: many)
    assert facts(distilled)["classes"].startswith("1,000: kind 0, ")
    assert facts(distilled)["classes"].endswith("kind 11 and 988 more")
