"""A step in a user's own loop, on an accelerator: no code of ours waits for the device."""

import pytest

from virtual_accelerator import run_on_virtual_accelerator

SCRIPT = """
import json
import torch
import torch.nn.functional as F
from torch import nn
from svdistill import Distiller, FSPLoss, PositionSVDLoss, SoftTargetLoss, SVDLoss
from svdistill.common import SVDistillError
from svdistill.distillation.checks import TransferCounts

device = "virtual"

def network(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),  # more positions than channels
        nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 40, 3, stride=2), nn.BatchNorm2d(40), nn.ReLU(),
        nn.Conv2d(40, 60, 3, stride=2), nn.Flatten(), nn.Linear(60 * 9, 7),
    )

def made(loss, clip, taps=("0", "5", "6"), unclipped=None):
    torch.manual_seed(0)
    teacher, student = network(24).to(device), network(24).to(device)
    return Distiller(teacher, student, loss, taps=taps, clip=clip, unclipped=unclipped)

def step(distiller, images, labels, **options):
    before = len(virtual.waits)
    output = distiller(images)
    task = F.cross_entropy(output.logits, labels)
    distiller.backward(task, output, progress=0, **options)
    for parameter in distiller.trainable_parameters():
        parameter.grad = None
    return virtual.waits[before:]

found = {}
with mode:
    images = torch.rand(4, 3, 16, 16, device=device)
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    scale = torch.full((), 1024.0, device=device)
    for name, distiller, options in (
        ("svd", made(SVDLoss(), "amortised"), {}),
        ("svd of all", made(SVDLoss(gradient="poster", num_vectors=4), "norm"), {}),
        ("position svd", made(PositionSVDLoss(), "amortised", unclipped=SoftTargetLoss()), {}),
        ("fsp", made(FSPLoss(), "poster"), {}),
        ("soft target", made(SoftTargetLoss(), "none"), {}),
        ("fp16", made(FSPLoss(), "global"), {"loss_scale": scale}),
    ):
        step(distiller, images, labels, **options)  # its teacher's forms are compared
        found[name] = step(distiller, images, labels, **options)

    distiller = made(SoftTargetLoss(), "none", taps=())
    step(distiller, images, labels)
    before = len(virtual.waits)
    float(images.sum()), images[images > 0.5], images.nonzero()
    torch.linalg.eigh(images[0, 0]), torch.zeros(2).to(device), images.cpu()
    found["planted"] = virtual.waits[before:]

    def until_error(steps, pinned):
        TransferCounts.PINNED = pinned
        distiller = made(SoftTargetLoss(), "none", taps=())
        for number in range(steps):
            try:
                step(distiller, images * (torch.nan if number == 1 else 1.0), labels)
            except SVDistillError as error:
                return [number, str(error)]
        try:
            distiller.end_epoch()
        except SVDistillError as error:
            return ["end", str(error)]

    torch.zeros = lambda *size, zeros=torch.zeros, pin_memory=False, **options: zeros(
        *size, **options
    )
    found["asynchronous"] = until_error(5, ("virtual",))
    found["at the end"] = until_error(3, ())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    return run_on_virtual_accelerator(SCRIPT)


@pytest.mark.parametrize(
    "case", ["svd", "svd of all", "position svd", "fsp", "soft target", "fp16"]
)
def test_a_step_waits_for_nothing(found, case):
    assert found[case] == []


def test_what_waits_would_be_found(found):
    assert len(found["planted"]) == 6, found["planted"]


def test_a_loss_that_is_not_finite_raises_within_a_few_steps(found):
    number, message = found["asynchronous"]
    assert number == 2
    assert "transfer_loss: expected a finite number, got NaN or infinity in 1 of 2 steps" in message


def test_it_raises_after_the_epoch_where_no_copy_is_asynchronous(found):
    number, message = found["at the end"]
    assert number == "end"
    assert "got NaN or infinity in 1 of 3 steps" in message
