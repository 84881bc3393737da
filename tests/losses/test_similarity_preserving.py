"""Similarity preserving: the peer's value, and parts of a batch, which it refuses."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feature_maps import maps
from svdistill.common.errors import ArgumentError
from svdistill.distillation import Distiller
from svdistill.losses import FSPLoss, SimilarityPreservingLoss, SumLoss
from svdistill.parallel import BatchPart

pytest.importorskip("torchdistill", reason="the extra `peers` is not installed")


@pytest.mark.parametrize("norm", [1, 2])
def test_rows_are_over_their_2_norm_and_torchdistills_over_their_1_norm(norm):
    """It gives `normalize` the dimension as the order of the norm; the paper says L2."""
    student, teacher = maps(0, 4)[-1:], maps(1, 4)[-1:]
    rows = [side[0].flatten(1) for side in (student, teacher)]
    first, second = (F.normalize(row @ row.T, norm, dim=1) for row in rows)
    expected = (first - second).square().sum() / 16
    if norm == 1:
        module = importlib.import_module("torchdistill.losses.mid_level")
        peer = module.SPKDLoss("tap", "tap", reduction="batchmean")
        outputs = ({"tap": {"output": side[0]}} for side in (student, teacher))
        torch.testing.assert_close(peer(*outputs), expected)
    else:
        loss = SimilarityPreservingLoss(weight=1.0)
        actual = loss(student, None, loss.extract(teacher, None))
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("alone", [True, False])
def test_a_part_of_a_batch_is_refused(processes, alone):
    loss = SimilarityPreservingLoss()
    loss = loss if alone else SumLoss([FSPLoss(), loss], [1.0, 1.0])
    student, labels = maps(0, 4), torch.zeros(4, 3)
    knowledge = loss.extract(maps(1, 4), None)
    part = BatchPart(images=8, labelled=8, processes=processes)
    with pytest.raises(ArgumentError, match=r"^SimilarityPreservingLoss: expected all 8 images"):
        loss.of_part(student, labels, knowledge, part)
    whole = BatchPart(images=4, labelled=4, processes=1)
    expected = loss(student, labels, knowledge)
    assert torch.equal(loss.of_part(student, labels, knowledge, whole), expected)


def test_accumulate_is_refused_in_a_users_loop():
    def network():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))

    distiller = Distiller(network(), network(), SimilarityPreservingLoss(), taps=["0"])
    distiller.accumulate(6)
    with pytest.raises(ArgumentError, match=r"without accumulate"):
        distiller(torch.rand(3, 3, 8, 8))
