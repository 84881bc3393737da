"""A step in parts against the step itself, in every stage, with and without labels."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.data import UNLABELLED
from svdistill.distillation.distiller import Distiller
from svdistill.losses import SoftTargetLoss, SVDLoss
from svdistill.parallel import own_share
from svdistill.training.batch import MixedLabels, TrainingBatch
from svdistill.training.step import AccumulatedStep, DistillStep, TaskStep, TransferStep
from tiny_runs import distill_config, train_config
from together import in_processes
from virtual_accelerator import run_on_virtual_accelerator

IMAGES = torch.rand(7, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, UNLABELLED, 2, 3, UNLABELLED, 1, 0])


def network(seed):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 9, 4))


def plain_accelerator():
    """What a step needs of one in float32, in a process of a group too."""
    return SimpleNamespace(scaler=None, autocast=nullcontext, backward=lambda loss: loss.backward())


def make(kind):
    accelerator = plain_accelerator()
    if kind is TaskStep:
        return TaskStep(network(1), accelerator)
    distiller = Distiller(
        network(0), network(1), SVDLoss(), taps=["0", "2"], unclipped=SoftTargetLoss()
    )
    return kind(distiller, accelerator, 0.5, 2.0)


@pytest.mark.parametrize(
    ("kind", "stored", "mixed_in"),
    [
        (TaskStep, False, None),
        (TaskStep, False, MixedLabels(LABELS.roll(1), torch.full((7,), 0.2))),
        (DistillStep, False, None),
        (DistillStep, True, None),
        (TransferStep, False, None),
    ],
)
def test_equals_the_whole_batch(kind, stored, mixed_in):
    whole, inner = make(kind), make(kind)
    parts = AccumulatedStep(inner, 3)
    knowledge = whole.distiller.teach(IMAGES) if stored else None
    for _ in range(2):  # with a measurement, and without
        batch = TrainingBatch(IMAGES, LABELS, knowledge, mixed_in=mixed_in)
        expected, found = whole(batch, 0), parts(batch, 0)
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(found, expected, **close, check_dtype=False)
        for one, other in zip(inner.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, **close)
            one.grad = other.grad = None


def two_steps(step):
    """Losses and gradients of two steps on this process's share of the batch."""
    share, found = own_share(), []
    part = share.part(len(IMAGES), int((LABELS != UNLABELLED).sum()))
    batch = TrainingBatch(share.take(IMAGES), share.take(LABELS), part=part)
    for _ in range(2):  # with a measurement, and without
        result = step(batch, 0)
        found.append([result.task_loss, result.transfer_loss])
        for parameter in getattr(step, "step", step).parameters():
            found[-1].append(parameter.grad)
            parameter.grad = None
    return found


def accumulated():
    return two_steps(AccumulatedStep(make(DistillStep), 2))


@pytest.mark.slow
def test_equals_the_whole_batch_in_two_processes_too(tmp_path):
    expected = two_steps(make(DistillStep))
    for found in in_processes(2, accumulated, tmp_path):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_there_are_never_more_parts_than_images():
    step = AccumulatedStep(make(DistillStep), 4)
    assert step(TrainingBatch(IMAGES[:2], LABELS[:2]), 0).logits.shape == (2, 4)


def test_no_more_parts_than_images_in_a_step():
    with pytest.raises(ArgumentError, match=r"^accumulate: expected at most 4"):
        train_config("runs/a", batch_size=4, accumulate=5).check()
    distill_config("runs/a", "runs/t", batch_size=4, accumulate=4).check()


SCRIPT = """
import json
from contextlib import nullcontext
from types import SimpleNamespace
import torch
from torch import nn
from svdistill import Distiller, SoftTargetLoss, SVDLoss
from svdistill.training.batch import TrainingBatch
from svdistill.training.metrics import EpochMeter
from svdistill.training.step import AccumulatedStep, DistillStep

def network():
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 9, 4)).to("virtual")

with mode:
    torch.manual_seed(0)
    distiller = Distiller(
        network(), network(), SVDLoss(), taps=["0", "2"], unclipped=SoftTargetLoss()
    )
    accelerator = SimpleNamespace(scaler=None, autocast=nullcontext)
    step = AccumulatedStep(DistillStep(distiller, accelerator, 0.5, 2.0), count=3)
    images = torch.rand(7, 3, 12, 12, device="virtual")
    labels = torch.full((7,), -1, device="virtual")
    labels[:4] = 2
    meter = EpochMeter(torch.device("virtual"))
    for _ in range(2):  # in the first, the teacher's forms are compared
        virtual.waits.clear()
        meter.update(step(TrainingBatch(images, labels), 0.0, True), labels)
        for parameter in distiller.student.parameters():
            parameter.grad = None
    waits = list(virtual.waits)
    print(json.dumps({"waits": waits, "labelled": float(meter.sums[0])}))
"""


@pytest.mark.slow
def test_counting_labels_waits_for_no_accelerator():
    found = run_on_virtual_accelerator(SCRIPT)
    assert found == {"waits": [], "labelled": 8.0}
