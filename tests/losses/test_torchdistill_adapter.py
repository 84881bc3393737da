"""torchdistill's losses by name: their own values, the clip, the store, and what is refused."""

import copy
import importlib
import pickle
import sys

import pytest
import torch
from torch import nn

from feature_maps import logits, maps
from svdistill.common.errors import ArgumentError
from svdistill.config import DistillConfig
from svdistill.distillation import Distiller
from svdistill.losses import (
    AttentionTransferLoss,
    DISTLoss,
    LogitStandardizationLoss,
    SoftTargetLoss,
    SumLoss,
    TorchdistillLoss,
    loss_specs,
)
from svdistill.losses.torchdistill_adapter import _ADAPTED, _REFUSED
from svdistill.parallel import BatchPart
from svdistill.training.setup import build_losses

pytest.importorskip("torchdistill", reason="the extra `peers` is not installed")

ADAPTED = list(_ADAPTED)
LAST = ("PKTLoss", "AffinityLoss", "RKDLoss", "SPKDLoss")


def value(loss, student, teacher, student_logits=None, teacher_logits=None):
    return loss(student, student_logits, loss.extract(teacher, teacher_logits))


def peers(name):
    return getattr(importlib.import_module("torchdistill.losses.mid_level"), name)


@pytest.mark.parametrize("name", ADAPTED)
def test_every_one_teaches(name):
    """A finite value, and a gradient of every tap that is read."""
    student = [tap.requires_grad_() for tap in maps(0, 4, dtype=torch.float32)]
    student_logits = logits(0, 4, torch.float32).requires_grad_()
    loss = TorchdistillLoss(name)
    teacher = maps(1, 4, dtype=torch.float32), logits(1, 4, torch.float32)
    out = value(loss, student, teacher[0], student_logits, teacher[1])
    out.backward()
    assert out.isfinite()
    assert out.item() > 0
    read = {"taps": student, "last tap": student[-1:], "logits": [student_logits]}
    for tensor in read[loss.adapted.reads]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("KDLoss", SoftTargetLoss()),
        ("LogitStdKDLoss", LogitStandardizationLoss(weight=1.0)),
        ("DISTLoss", DISTLoss(1.0, 1.0, 1.0)),
        ("ATLoss", AttentionTransferLoss(weight=1.0)),
    ],
)
def test_equals_ours(name, ours):
    # Where a student varies less than its teacher, our DIST is another one.
    inputs = maps(0, 4), maps(1, 4), 3 * logits(0, 4), 0.2 * logits(1, 4)
    actual = value(TorchdistillLoss(name), *inputs)
    torch.testing.assert_close(actual, value(ours, *inputs), rtol=1e-6, atol=0)


def test_fsp_and_the_last_taps_losses_get_torchdistills_own_inputs():
    student, teacher = maps(0, 4), maps(1, 4)
    fsp = sum(
        (
            peers("FSPLoss").compute_fsp_matrix(*student[place : place + 2])
            - peers("FSPLoss").compute_fsp_matrix(*teacher[place : place + 2])
        )
        .norm(dim=1)
        .sum()
        for place in range(2)
    )
    torch.testing.assert_close(value(TorchdistillLoss("FSPLoss"), student, teacher), fsp / 4)
    for name in LAST:
        loss = TorchdistillLoss(name)
        assert torch.equal(value(loss, student, teacher), value(loss, student[-1:], teacher[-1:]))


def test_tokens_are_maps_of_one_column():
    student, teacher = maps(0, 4), maps(1, 4)
    loss = TorchdistillLoss("ATLoss")
    tokens = [[tap.flatten(2).mT for tap in side] for side in (student, teacher)]
    torch.testing.assert_close(value(loss, *tokens), value(loss, student, teacher))


@pytest.mark.parametrize("name", ["SPKDLoss", "DISTLoss", "ChSimLoss"])
def test_a_part_of_a_batch_is_refused_where_images_are_related(name):
    loss = TorchdistillLoss(name)
    knowledge = loss.extract(maps(1), logits(1))
    with pytest.raises(ArgumentError, match="all 8 images"):
        loss.of_part(maps(0), logits(0), knowledge, BatchPart(8, 8, 1))


def test_pickles_copies_and_selects_from_a_sum():
    student, teacher = maps(0), maps(1)
    loss = TorchdistillLoss("ATLoss")
    expected = value(loss, student, teacher)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(value(other, student, teacher), expected)
    both = SumLoss([TorchdistillLoss("KDLoss"), loss], [1.0, 1.0])
    knowledge = both.extract(teacher, logits(1))
    assert torch.equal(loss(student, None, loss.select(knowledge)), expected)


def test_by_name_with_the_clip():
    """Maps are clipped; logits count as part of the task."""
    loss = "torchdistill:FSPLoss+torchdistill:KDLoss"
    config = DistillConfig(output="run", teacher="t", loss=loss, soft_target_weight=0.5)
    config.check()
    losses = build_losses(config)
    assert losses.clipped.name == "FSPLoss"
    assert losses.unclipped.weights == (0.5,)

    def network(channels):
        head = nn.Flatten(), nn.Linear(channels * 16, 5)
        return nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, channels, 3), *head)

    distiller = Distiller(network(6), network(6), losses.clipped, taps=["0", "1"])
    distiller.unclipped = losses.unclipped
    out = distiller(torch.rand(4, 3, 8, 8))
    norms = distiller.backward(out.logits.square().mean(), out, progress=0)
    assert float(norms.clipped) <= float(norms.task) * 1.001


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CRDLoss", "modules that are trained"),
        ("DISTPlusLoss", "smaller"),
        ("ATLos", "did you mean 'ATLoss'"),
    ],
)
def test_what_cannot_be_adapted(name, message):
    with pytest.raises(ArgumentError, match=message) as raised:
        DistillConfig(output="run", teacher="teacher", loss=f"fsp+torchdistill:{name}").check()
    assert raised.value.argument == "loss"


def test_every_middle_level_loss_is_adapted_or_refused():
    registry = importlib.import_module("torchdistill.losses.registry")
    importlib.import_module("torchdistill.losses.mid_level")
    assert {*_ADAPTED, *_REFUSED} == set(registry.MIDDLE_LEVEL_LOSS_DICT)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdistill.losses.mid_level", None)
    with pytest.raises(ArgumentError, match="pip install --no-deps torchdistill"):
        loss_specs("torchdistill:ATLoss")


def test_maps_that_cannot_be_compared():
    student, teacher = maps(0), maps(1)
    for name, tap, message in (
        ("FSPLoss", student[0][:, :3], "channels at tap 0"),
        ("ATLoss", student[0][:, :, :4], "positions at tap 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            value(TorchdistillLoss(name), [tap, *student[1:]], teacher)
