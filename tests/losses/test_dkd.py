"""Decoupled distillation: labels, parts of a batch, and its relation to soft targets."""

import pytest
import torch

import references
from feature_maps import CLASSES, logits, maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import DKDLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.parallel import BatchPart

LABELS = torch.tensor([2, 0, 6, 5])


def value(loss, student, teacher, labels):
    return loss([], student, loss.extract([], teacher), labels=labels)


@pytest.mark.parametrize("weights", [(1.0, 8.0), (0.0, 2.0), (3.0, 0.0)])
def test_equals_its_formula(weights):
    student, teacher = logits(0, 4), logits(1, 4)
    expected = references.decoupled_loss(student, teacher, LABELS.tolist(), *weights)
    loss = DKDLoss(4.0, *weights)
    assert float(value(loss, student, teacher, LABELS)) == pytest.approx(expected, rel=1e-10)


def test_with_the_teachers_own_weights_it_is_the_soft_target():
    """KL = TCKD + (1 - p_T,y) NCKD, the paper's equation 5, for one image."""
    student, teacher, label = logits(0, 1), logits(1, 1), LABELS[:1]
    rest = 1 - float((teacher / 4).softmax(1)[0, label])
    soft = SoftTargetLoss()
    expected = soft([], student, soft.extract([], teacher))
    torch.testing.assert_close(value(DKDLoss(4.0, 1.0, rest), student, teacher, label), expected)


def test_images_without_a_label_count_for_nothing():
    student, teacher = logits(0, 4), logits(1, 4)
    labelled = torch.tensor([2, -1, 6, -1])
    loss, kept = DKDLoss(), labelled >= 0
    expected = value(loss, student[kept], teacher[kept], labelled[kept])
    torch.testing.assert_close(value(loss, student, teacher, labelled), expected)
    assert float(value(loss, student, teacher, torch.full((4,), -1))) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_come_to_the_whole_batch(processes):
    """Their mean over processes, or their sum of one process, with unequally many labels."""
    student, teacher, features = logits(0, 4), logits(1, 4), maps(0, 4)
    labels = torch.tensor([2, -1, 6, 5])
    loss = SumLoss([SVDLoss(), DKDLoss()], [0.0, 2.0])
    part = BatchPart(images=4, labelled=3, processes=processes)
    shares = []
    for here in (slice(0, 2), slice(2, 4)):
        tapped = [feature[here] for feature in features]
        knowledge = loss.extract(tapped, teacher[here])
        shares.append(loss.of_part(tapped, student[here], knowledge, part, labels[here]))
    expected = 2 * value(DKDLoss(), student, teacher, labels)
    torch.testing.assert_close(sum(shares) / processes, expected)


def test_a_binary_classifier_has_two_classes():
    student, teacher = logits(0, 4)[:, :1], logits(1, 4)[:, :1]
    both = [torch.nn.functional.pad(one, (1, 0)) for one in (student, teacher)]
    labels = torch.tensor([0, 1, 1, 0])
    loss = DKDLoss()
    assert torch.equal(value(loss, student, teacher, labels), value(loss, *both, labels))


def test_confident_predictions_stay_finite():
    student = (1e4 * torch.eye(CLASSES)).requires_grad_()
    loss = value(DKDLoss(), student, -1e4 * torch.eye(CLASSES), torch.arange(CLASSES))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_refuses():
    with pytest.raises(ArgumentError, match=r"^nontarget_weight: expected 0 or more"):
        DKDLoss(nontarget_weight=-1.0)
    with pytest.raises(ArgumentError, match=r"^labels: "):
        value(DKDLoss(), logits(0, 4), logits(1, 4), LABELS[:3])
    loss = DKDLoss()
    with pytest.raises(ArgumentError, match=r"^labels: .*which DKDLoss reads"):
        loss.of_part([], logits(0, 4), loss.extract([], logits(1, 4)), None)
