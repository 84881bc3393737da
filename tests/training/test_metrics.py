import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import TrainingError
from svdistill.data import UNLABELLED, Augmentation, load_images
from svdistill.distillation import GradientNorms
from svdistill.runs.records import read_records
from svdistill.training.metrics import EpochMeter, EvaluationImages, StepResult, evaluate_network

CPU = torch.device("cpu")


def step(seed, images, transfer=None, norms=None):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 4, generator=generator)
    labels = torch.randint(4, (images,), generator=generator)
    loss = F.cross_entropy(logits, labels)
    extra = None if transfer is None else torch.tensor(transfer)
    steps = None if norms is None else GradientNorms(*map(torch.tensor, norms))
    return StepResult(loss, extra, logits, steps), labels


def test_means_are_over_images_and_norms_over_steps():
    steps = [step(0, 8, 2.0, (1.0, 2.0, 3.0)), step(1, 3, 5.0, (2.0, 4.0, 9.0))]
    meter = EpochMeter(CPU)
    for result, labels in steps:
        meter.update(result, labels)
    logits = torch.cat([result.logits for result, _ in steps])
    labels = torch.cat([labels for _, labels in steps])
    assert meter.mean_task_loss() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert meter.train_accuracy() == pytest.approx(
        100 * (logits.argmax(1) == labels).double().mean().item()
    )
    assert meter.mean_transfer_loss() == pytest.approx((8 * 2 + 3 * 5) / 11)
    assert meter.mean_norms() == pytest.approx([1.5, 3, 6])


def test_images_without_a_label_count_in_the_transfer_alone():
    meter, labelled = EpochMeter(CPU), []
    for seed, transfer in ((0, 2.0), (1, 5.0)):
        result, labels = step(seed, 8, transfer)
        labels[seed : seed + 5] = UNLABELLED
        kept = labels != UNLABELLED
        labelled.append((result.logits[kept], labels[kept]))
        loss = F.cross_entropy(*labelled[-1])
        meter.update(result._replace(task_loss=loss), labels)
    result, labels = step(2, 4, 8.0)
    nothing = torch.full_like(labels, UNLABELLED)
    meter.update(result._replace(task_loss=torch.zeros(())), nothing)
    logits, labels = map(torch.cat, zip(*labelled, strict=True))
    assert meter.images == 20
    assert meter.mean_task_loss() == pytest.approx(F.cross_entropy(logits, labels).item())
    right = (logits.argmax(1) == labels).double().mean().item()
    assert meter.train_accuracy() == pytest.approx(100 * right)
    assert meter.mean_transfer_loss() == pytest.approx((8 * 2 + 8 * 5 + 4 * 8) / 20)


def test_no_image_has_a_label():
    meter = EpochMeter(CPU)
    result, labels = step(0, 8)
    nothing = torch.full_like(labels, UNLABELLED)
    meter.update(result._replace(task_loss=torch.zeros(())), nothing)
    assert (meter.train_accuracy(), meter.mean_task_loss()) == (0.0, 0.0)


def test_what_no_step_computed_is_none():
    meter = EpochMeter(CPU)
    meter.update(*step(0, 8))
    assert meter.mean_transfer_loss() is None
    assert meter.mean_norms() == [None, None, None]


@pytest.mark.parametrize(
    ("losses", "name"),
    [((1.0, 2.0), None), ((math.inf, 2.0), "loss"), ((1.0, math.nan), "transfer_loss")],
)
def test_one_step_that_is_not_finite_shows_ever_after(losses, name):
    meter = EpochMeter(CPU)
    for number in range(5):
        result, labels = step(number, 4, losses[1] if number == 2 else 1.0)
        task = torch.tensor(losses[0]) if number == 2 else result.task_loss
        meter.update(result._replace(task_loss=task), labels)
    if name is None:
        meter.require_finite("in epoch 1")
    else:
        with pytest.raises(TrainingError, match=rf"^{name}: .* got (inf|nan) in epoch 1"):
            meter.require_finite("in epoch 1")


@pytest.fixture(scope="module")
def images():
    return load_images("digits", train_size=20)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(196, 10)
    )


def evaluate(model, images, **options):
    normalised = Augmentation("none", 16, images.mean, images.std)
    shown = EvaluationImages(images.test, normalised)
    return evaluate_network(model, shown, device=CPU, **options)


def test_evaluation_against_one_big_batch(images):
    model = network()
    measured = evaluate(model, images)
    model.eval()
    pixels, labels = images.test.images, images.test.labels
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (images.mean, images.std))
    logits = model((pixels.float() / 255 - mean) / std)
    assert measured.accuracy == pytest.approx(
        100 * (logits.argmax(1) == labels).double().mean().item()
    )
    assert measured.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert measured.images == len(images.test) == 719


def test_evaluation_finds_the_logits_in_what_others_return(images):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, views):
            return self.network(views), None

    assert evaluate(Wrapped(), images) == evaluate(network(), images)


@pytest.mark.parametrize("batch_size", [1, 7, 719, 5000])
def test_the_batch_size_changes_nothing(images, batch_size):
    expected = evaluate(network(), images)
    measured = evaluate(network(), images, batch_size=batch_size)
    assert measured.accuracy == pytest.approx(expected.accuracy)
    assert measured.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(images, training):
    model = network().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, images)
    assert all(module.training == training for module in model.modules())
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    model(torch.rand(2, 3, 16, 16)).sum().backward()  # no inference tensor has stayed in it


def test_a_network_that_puts_out_nan_has_no_loss_of_zero(images):
    model = network()
    nn.init.constant_(model[4].bias, float("nan"))
    assert torch.tensor(evaluate(model, images).loss).isnan()


def test_runs_from_before_a_metric_was_measured_are_read(student_run, tmp_path):
    lines = [json.loads(line) for line in (student_run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["svd_close"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = read_records(tmp_path)
    assert [record.epoch for record in records] == [0, 1, 2]
    assert {record.svd_close for record in records} == {None}
