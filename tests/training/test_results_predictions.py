from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from svdistill.common.errors import RunError
from svdistill.config import DistillConfig, TrainConfig
from svdistill.runs import read_summary
from svdistill.training import evaluate
from svdistill.training.results import (
    BINS,
    Predictions,
    read_predictions,
    summarise_predictions,
    write_predictions,
)
from svdistill.training.run import distill, train

NAMES = tuple("abcd")


def drawn(seed: int, images: int = 200) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels, classes = torch.randint(len(NAMES), (2, images), generator=generator)
    return Predictions(labels, classes, torch.rand(images, generator=generator))


def test_confusions_are_scikit_learns() -> None:
    made = drawn(0)
    summary = summarise_predictions(made, None, NAMES)
    reference = confusion_matrix(made.labels, made.classes)
    found = np.zeros_like(reference)
    for label, guess, count in summary.confusions:
        found[label, guess] = count
    assert (found == reference).all()
    recalls = 100 * reference.diagonal() / reference.sum(1)
    assert list(summary.class_accuracies().values()) == pytest.approx(recalls.tolist())
    assert summary.images == 200
    assert summary.agreement is None


def test_the_calibration_error_is_that_of_its_definition() -> None:
    made = drawn(1)
    summary = summarise_predictions(made, None, NAMES)
    confidences = made.confidences.double().numpy()
    right = (made.labels == made.classes).numpy()
    edges = np.linspace(0, 1, BINS + 1)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (confidences >= low) & (confidences < high)
        if inside.any():
            gap = abs(right[inside].mean() - confidences[inside].mean())
            expected += inside.mean() * gap
    assert summary.calibration_error == pytest.approx(expected, abs=1e-6)
    certain = made._replace(confidences=torch.ones(200))
    assert summarise_predictions(certain, None, NAMES).bins[-1].images == 200


def test_agreement_is_known_for_the_same_images_only() -> None:
    made = drawn(2)
    teacher = made._replace(classes=torch.where(torch.arange(200) < 150, made.classes, -1))
    assert summarise_predictions(made, teacher, NAMES).agreement == pytest.approx(0.75)
    shuffled = Predictions(*(values.flip(0) for values in teacher))
    assert summarise_predictions(made, shuffled, NAMES).agreement is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    summary = summarise_predictions(drawn(3), drawn(3), NAMES)
    assert read_predictions(tmp_path) is None
    write_predictions(tmp_path / "predictions.json", summary)
    assert read_predictions(tmp_path) == summary
    (tmp_path / "predictions.json").write_text(
        '{"class_names": ["a"], "confusions": [[0, 1, 3]], "bins": [[3, 0, 1.0]]}'
    )
    with pytest.raises(RunError, match="a class without a name"):
        read_predictions(tmp_path)


def test_runs_keep_the_predictions_of_their_last_epoch(tmp_path: Path) -> None:
    shared = {"data": "digits", "width": 0.1, "train_size": 100, "device": "cpu"}
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    train(TrainConfig(output=teacher, network="mobilenet_teacher", epochs=1, **shared))
    options = {"network": "mobilenet_student", "loss": "soft_target", "epochs": 2}
    distill(DistillConfig(output=student, teacher=teacher, **options, **shared))
    kept = [read_predictions(path) for path in (teacher, student)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0].agreement is None
    by_hand = [evaluate(path).predictions for path in (teacher, student)]
    assert by_hand[0] is not None
    assert by_hand[1] is not None
    same = (by_hand[0].classes == by_hand[1].classes).double().mean()
    assert kept[1].agreement == pytest.approx(float(same))
    right = sum(one.right for one in kept[1].bins)
    assert 100 * right / kept[1].images == pytest.approx(read_summary(student).last_accuracy)
