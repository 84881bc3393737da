"""A weighted sum of losses is the weighted sum of its parts, in value, gradient and knowledge."""

import pytest
import torch

from feature_maps import logits, maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import FSPLoss, PositionGramLoss, SoftTargetLoss, SumLoss, SVDLoss


def gradients(loss, knowledge):
    inputs = [tensor.requires_grad_() for tensor in (*maps(0), logits(0))]
    out = loss(inputs[:-1], inputs[-1], knowledge)
    found = torch.autograd.grad(out, inputs, allow_unused=True)
    return out, [
        torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)
    ]


def test_is_the_weighted_sum_of_its_parts():
    parts, weights = [SVDLoss(2), FSPLoss(), SoftTargetLoss()], [0.3, 2.0, 0.9]
    total = SumLoss(parts, weights)
    out, gradient = gradients(total, total.extract(maps(1), logits(1)))
    outs, part_gradients = zip(
        *(gradients(part, part.extract(maps(1), logits(1))) for part in parts), strict=True
    )
    torch.testing.assert_close(out, sum(w * o for w, o in zip(weights, outs, strict=True)))
    for tensor, *tensors in zip(gradient, *part_gradients, strict=True):
        expected = sum(w * g for w, g in zip(weights, tensors, strict=True))
        torch.testing.assert_close(tensor, expected)


def test_knowledge_is_that_of_the_parts_in_order():
    parts = [FSPLoss(), SoftTargetLoss()]
    knowledge = SumLoss(parts, [1.0, 1.0]).extract(maps(1), logits(1))
    expected = [t for part in parts for t in part.extract(maps(1), logits(1)).tensors()]
    assert len(knowledge.tensors()) == len(expected) == 3
    assert all(torch.equal(*pair) for pair in zip(knowledge.tensors(), expected, strict=True))


def test_sums_nest():
    inner = SumLoss([SVDLoss(), FSPLoss()], [2.0, 3.0])
    outer = SumLoss([inner, SoftTargetLoss()], [0.5, 1.0])
    flat = SumLoss([SVDLoss(), FSPLoss(), SoftTargetLoss()], [1.0, 1.5, 1.0])
    values = [
        loss(maps(0), logits(0), loss.extract(maps(1), logits(1)).map(torch.clone))
        for loss in (outer, flat)
    ]
    torch.testing.assert_close(*values)


def test_every_loss_selects_its_own_from_a_sum():
    whole = SumLoss([SVDLoss(4), SoftTargetLoss(2.0)], [1.0, 0.5]).extract(maps(1), logits(1))
    for loss in (
        SVDLoss(2, beta=3.0, gradient="poster"),
        SoftTargetLoss(),
        SumLoss([SoftTargetLoss(), SVDLoss()], [2.0, 1.0]),
        SumLoss([SumLoss([SVDLoss(3)], [1.0])], [1.0]),
    ):
        expected = loss(maps(0), logits(0), loss.extract(maps(1), logits(1)))
        torch.testing.assert_close(loss(maps(0), logits(0), loss.select(whole)), expected)


def test_parts_of_one_kind_find_the_knowledge_that_is_enough():
    loss = SumLoss([SVDLoss(2), SVDLoss(4)], [1.0, 1.0])
    knowledge = loss.extract(maps(1), logits(1))
    selected = loss.select(knowledge)
    assert [str(part) for part in selected.parts] == [str(part) for part in knowledge.parts]


@pytest.mark.parametrize("grids", [(2, 4), (4, 2)])
def test_of_its_own_knowledge_each_part_reads_its_own(grids):
    """A coarser grid can be read, too, but is less."""
    loss = SumLoss([PositionGramLoss(grid) for grid in grids], [1.0, 1.0])
    knowledge = loss.extract(maps(1), None)
    selected = loss.select(knowledge)
    assert all(one is its for one, its in zip(selected.parts, knowledge.parts, strict=True))


def test_of_richer_knowledge_with_as_many_parts_each_part_cuts_its_own():
    richer, loss = (SumLoss([SVDLoss(k), FSPLoss()], [1.0, 1.0]) for k in (4, 1))
    selected = loss.select(richer.extract(maps(1), None))
    expected = loss(maps(0), None, loss.extract(maps(1), None))
    torch.testing.assert_close(loss(maps(0), None, selected), expected)


def test_refuses_knowledge_without_one_of_its_parts():
    knowledge = SVDLoss(2).extract(maps(1), None)
    message = r"^knowledge: expected SoftTargetKnowledge .*SoftTargetLoss.* got SVDKnowledge\("
    with pytest.raises(ArgumentError, match=message):
        SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 1.0]).select(knowledge)


def test_a_weight_of_zero_switches_a_loss_off():
    loss = SumLoss([SVDLoss(), SoftTargetLoss()], [0.0, 1.0])
    soft = SoftTargetLoss()
    _, gradient = gradients(loss, loss.extract(maps(1), logits(1)))
    _, expected = gradients(soft, soft.extract(maps(1), logits(1)))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("losses", "weights"),
    [
        ([FSPLoss()], [1.0, 2.0]),
        ([FSPLoss(), FSPLoss()], [1.0]),
        ([], []),
        ([FSPLoss()], [float("nan")]),
        ([FSPLoss()], [float("inf")]),
    ],
)
def test_refuses_weights_that_do_not_fit(losses, weights):
    with pytest.raises(ArgumentError, match=r"^weights: expected"):
        SumLoss(losses, weights)


def test_float16_gradients_of_several_parts_stay_in_range():
    student = [(3000 * feature).half().requires_grad_() for feature in maps(0)]
    loss = SumLoss([FSPLoss()] * 8, [1.0] * 8)
    student_logits = logits(0).half().requires_grad_()
    loss(student, student_logits, loss.extract([m.half() for m in maps(1)], None)).backward()
    assert all(feature.grad.isfinite().all() for feature in student)
