"""A batch in parts has the gradients of the whole batch; batches are not added up unannounced."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.distillation import CLIPS
from svdistill.distillation.distiller import Distiller
from svdistill.losses import FSPLoss, PositionSVDLoss, SoftTargetLoss, SumLoss, SVDLoss

IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5


def network(seed):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 9, 5))


def make(loss=None, **options):
    return Distiller(network(0), network(1), loss or SVDLoss(), taps=["1", "3"], **options)


def mixed():
    return SumLoss([SVDLoss(), SoftTargetLoss(), FSPLoss()], [1.0, 0.5, 2.0])


def step(distiller, sizes, announce=True):
    """The norms and gradients of a batch in parts."""
    distiller.zero_grad()
    if announce:
        distiller.accumulate(len(IMAGES))
    for images, labels in zip(IMAGES.split(sizes), LABELS.split(sizes), strict=True):
        out = distiller(images)
        norms = distiller.backward(F.cross_entropy(out.logits, labels), out, progress=1)
    return [*norms, *(parameter.grad for parameter in distiller.student.parameters())]


@pytest.mark.parametrize("clip", [*CLIPS, "amortised"])
@pytest.mark.parametrize(
    "loss", [SVDLoss(), SVDLoss(reduction="mean"), PositionSVDLoss(), SoftTargetLoss(), mixed()]
)
def test_equals_the_whole_batch(loss, clip):
    """In a step that measures, and in one between two measurements; also in unequal parts."""
    whole, parts = (make(loss, clip=clip, unclipped=mixed()) for _ in range(2))
    for _ in range(2):
        expected = step(whole, [12], announce=False)
        found = step(parts, [6, 4, 2])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_measures_as_often_as_with_whole_batches():
    parts = make(clip_interval=2)
    measured = []
    for _ in range(4):
        before = copy.deepcopy(parts.carried_state()["amortised"])
        step(parts, [4, 4, 4])
        measured.append(before["since"] in (0, 2))
    assert measured == [True, False, True, False]


def test_norms_before_the_last_part_are_unknown():
    distiller = make()
    distiller.accumulate(12)
    out = distiller(IMAGES[:6])
    norms = distiller.backward(F.cross_entropy(out.logits, LABELS[:6]), out, progress=0)
    assert all(norm.isnan() for norm in norms)


def test_a_look_between_the_parts_changes_nothing():
    distiller = make()
    distiller.accumulate(12)
    with torch.no_grad():
        looked = distiller(IMAGES).transfer_loss
    torch.testing.assert_close(looked, make()(IMAGES).transfer_loss.detach())
    step(distiller, [6, 6])


def backward(distiller, images=IMAGES, labels=LABELS):
    out = distiller(images)
    distiller.backward(F.cross_entropy(out.logits, labels), out, progress=0)


@pytest.mark.parametrize("clip", ["norm", "none", "amortised"])
def test_batches_are_not_added_up_unannounced(clip):
    distiller = make(clip=clip)
    backward(distiller)
    with pytest.raises(ArgumentError, match=r"^backward: .*distiller\.accumulate\(images\)"):
        backward(distiller)
    distiller.zero_grad()
    backward(distiller)


@pytest.mark.parametrize("to_none", [True, False])
def test_a_loop_as_usual_is_no_sum(to_none):
    distiller = make()
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.0)
    for _ in range(3):
        backward(distiller)
        optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)
    backward(distiller)
    optimizer.zero_grad(set_to_none=to_none)  # a step that a scaler skips
    backward(distiller)


def test_an_optimizer_of_some_parameters_will_do():
    distiller = make()
    optimizer = torch.optim.SGD([distiller.student[0].weight], lr=0.1)
    for _ in range(2):
        backward(distiller)
        optimizer.step()
        optimizer.zero_grad()


def test_two_distillers_of_one_student_add_up():
    one = make()
    two = Distiller(network(2), one.student, SVDLoss(), taps=["1", "3"])
    backward(one)
    backward(two)


def test_more_images_than_announced_are_refused():
    distiller = make()
    distiller.accumulate(8)
    backward(distiller, IMAGES[:6], LABELS[:6])
    with pytest.raises(ArgumentError, match=r"^images: expected at most the 2 that are left of 8"):
        distiller(IMAGES[:6])


def test_a_batch_that_lacks_parts_is_refused():
    distiller = make()
    distiller.accumulate(12)
    backward(distiller, IMAGES[:6], LABELS[:6])
    with pytest.raises(ArgumentError, match=r"^accumulate: expected all 12 .*, got 6"):
        distiller.accumulate(12)
    distiller.accumulate(12)


def test_refuses_what_is_no_number_of_images():
    with pytest.raises(ArgumentError, match=r"^images: expected"):
        make().accumulate(0)
