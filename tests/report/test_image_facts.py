from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import made_run
from svdistill.report.details import image_facts
from svdistill.report.networks import card_of
from svdistill.report.runs import Run


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
