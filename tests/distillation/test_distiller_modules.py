"""Losses that train modules of their own beside the student."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from projecting_loss import LearnedTemperatureLoss, ProjectingLoss
from svdistill.common.errors import ArgumentError, TransferWarning
from svdistill.distillation.distiller import Distiller
from svdistill.losses import SoftTargetLoss, SumLoss, SVDLoss
from svdistill.taps import TapPairs, describe_pairs

TAPS = ("1", "3")


def convnet(seed, front, back):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, front, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(front, back, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(back, 5)),
    )


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return images, torch.randint(5, (8,), generator=generator)


def make(loss, seed=0, **options):
    networks = convnet(1, 7, 9), convnet(2, 4, 6)
    taps = describe_pairs(*networks, TapPairs(TAPS, TAPS), batch()[0])
    torch.manual_seed(seed)
    return Distiller(*networks, loss, taps=taps, **options)


def train(distiller, parameters, steps=2):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for step in range(steps):
        images, labels = batch(step)
        output = distiller(images)
        distiller.backward(F.cross_entropy(output.logits, labels), output, progress=0)
        optimizer.step()
        optimizer.zero_grad()
    distiller.end_epoch()


def channels(loss):
    return [(layer.in_features, layer.out_features) for layer in loss.projections]


def test_they_are_made_for_the_channels_of_the_taps():
    distiller = make(ProjectingLoss())
    assert distiller.adapters is None
    assert channels(distiller.loss) == [(4, 7), (6, 9)]


def test_they_are_made_for_the_channels_behind_adapters():
    distiller = make(SumLoss([ProjectingLoss(), SVDLoss()], [1.0, 1.0]))
    assert distiller.adapters is not None
    assert channels(distiller.loss.losses[0]) == [(7, 7), (9, 9)]
    train(distiller, distiller.trainable_parameters())


def test_the_unclipped_loss_has_them_too():
    distiller = make(SoftTargetLoss(), unclipped=ProjectingLoss())
    assert channels(distiller.unclipped) == [(4, 7), (6, 9)]
    train(distiller, distiller.trainable_parameters())


def test_without_a_teacher_the_pairs_tell_the_channels():
    """As of a knowledge store."""
    taught = make(ProjectingLoss())
    images, labels = batch()
    knowledge, student = taught.teach(images), convnet(2, 4, 6)
    taps = describe_pairs(taught.teacher, student, TapPairs(TAPS, TAPS), images)
    distiller = Distiller(None, student, ProjectingLoss(), taps=taps)
    assert channels(distiller.loss) == [(4, 7), (6, 9)]
    output = distiller(images, knowledge=knowledge)
    distiller.backward(F.cross_entropy(output.logits, labels), output, progress=0)


def test_one_seed_makes_the_same():
    states = [make(ProjectingLoss(), seed).state_dict() for seed in (3, 3, 4)]
    first, *others = [state["loss.projections.0.weight"] for state in states]
    assert [first.equal(other) for other in others] == [True, False]


def test_they_are_where_the_student_is():
    networks = convnet(1, 7, 9), convnet(2, 4, 6)
    taps = describe_pairs(*networks, TapPairs(TAPS, TAPS), batch()[0])
    loss = Distiller(networks[0], networks[1].to("meta"), ProjectingLoss(), taps=taps).loss
    assert all(tensor.is_meta for tensor in (*loss.parameters(), *loss.buffers()))


@pytest.mark.parametrize("taps", [TAPS, TapPairs(TAPS, TAPS)])
@pytest.mark.parametrize("loss", [ProjectingLoss, LearnedTemperatureLoss])
def test_module_paths_do_not_tell_the_channels(taps, loss):
    message = rf"^taps: expected paired taps, for whose channels {loss.__name__} .*pair_taps\("
    with pytest.raises(ArgumentError, match=message):
        Distiller(convnet(1, 7, 9), convnet(2, 4, 6), loss(), taps=taps)


@pytest.mark.parametrize("taps", [[], TapPairs((), ())])
def test_a_loss_on_logits_needs_no_taps(taps):
    distiller = Distiller(convnet(1, 7, 9), convnet(2, 4, 6), LearnedTemperatureLoss(), taps=taps)
    assert distiller.loss.channels == ([], [])
    before = distiller.loss.scale.weight.detach().clone()
    train(distiller, distiller.trainable_parameters())
    assert not distiller.loss.scale.weight.equal(before)
    with pytest.raises(ArgumentError, match=r"^taps: expected paired taps"):
        Distiller(convnet(1, 7, 9), convnet(2, 4, 6), ProjectingLoss(), taps=taps)


def test_they_are_trained_and_saved_but_are_no_part_of_the_student():
    distiller = make(ProjectingLoss())
    weights = list(distiller.loss.parameters())
    before = [weight.detach().clone() for weight in weights]
    trained = distiller.trainable_parameters()
    assert {id(weight) for weight in weights} < {id(weight) for weight in trained}
    assert len(trained) == len(weights) + len(list(distiller.student.parameters()))
    train(distiller, trained)
    assert not any(old.equal(new) for old, new in zip(before, weights, strict=True))
    other = make(ProjectingLoss(), seed=1)
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(distiller(batch()[0])[1], other(batch()[0])[1])


def test_one_scale_clips_their_gradient_with_the_students():
    distiller = make(SumLoss([ProjectingLoss()], [300.0]), clip="global")
    images, labels = batch()
    output = distiller(images)
    weights = list(distiller.loss.parameters())
    expected = torch.autograd.grad(output.transfer_loss, weights, retain_graph=True)
    task_loss = F.cross_entropy(output.logits, labels)
    norms = distiller.backward(task_loss, output, progress=0)
    assert norms.clipped < 0.9 * norms.transfer
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient * norms.clipped / norms.transfer)


def test_an_optimizer_without_them_is_told():
    distiller = make(ProjectingLoss())
    with pytest.warns(TransferWarning, match=r"its loss or adapters were not.*trainable_param"):
        train(distiller, distiller.student.parameters())
