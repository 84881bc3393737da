"""Attention transfer: the peer's value, grids of different size, and its weight."""

import importlib

import pytest
import torch

from feature_maps import maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import AttentionTransferLoss

pytest.importorskip("torchdistill", reason="the extra `peers` is not installed")


def value(loss, student, teacher):
    return loss(student, None, loss.extract(teacher, None))


def test_equals_torchdistills():
    """Its mode "code", the default, which the authors' figures come from."""
    student, teacher = maps(0), maps(1)
    tap = [{"io": "output", "path": str(place)} for place in range(3)]
    pairs = {str(place): {"teacher": tap[place], "student": tap[place]} for place in range(3)}
    peer = importlib.import_module("torchdistill.losses.mid_level").ATLoss(pairs)
    outputs = [{str(i): {"output": f} for i, f in enumerate(side)} for side in (student, teacher)]
    torch.testing.assert_close(
        value(AttentionTransferLoss(), student, teacher), 1000 * peer(*outputs)
    )


def test_by_hand():
    """Attention 1 : 0 against 1 : 1, over two positions."""
    student, teacher = torch.tensor([[[3.0], [0.0]]]), torch.tensor([[[2.0, 2.0], [2.0, 2.0]]])
    root = 0.5**0.5
    expected = ((1 - root) ** 2 + root**2) / 2
    actual = value(AttentionTransferLoss(weight=1.0), [student], [teacher])
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_a_finer_map_of_the_student_is_pooled():
    student, teacher = maps(0, shapes=[(6, 8, 6)]), maps(1, shapes=[(9, 4, 3)])
    pooled = [torch.nn.functional.avg_pool2d(student[0], 2)]
    loss = AttentionTransferLoss()
    torch.testing.assert_close(value(loss, student, teacher), value(loss, pooled, teacher))


def test_a_weight_that_is_not_positive_is_refused():
    with pytest.raises(ArgumentError, match=r"^weight: "):
        AttentionTransferLoss(weight=0.0)
