"""The soft-target loss against numpy, torch's own cross-entropy, and extreme logits."""

import pytest
import torch
import torch.nn.functional as F

import references
from feature_maps import logits
from svdistill.common.errors import ArgumentError
from svdistill.losses import SoftTargetLoss


def value(loss, student, teacher):
    return loss([], student, loss.extract([], teacher))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_equals_the_formula(temperature):
    student, teacher = logits(0), logits(1)
    expected = references.soft_target_loss(student, teacher, temperature)
    assert float(value(SoftTargetLoss(temperature), student, teacher)) == pytest.approx(
        expected, rel=1e-12
    )


def test_gradient_is_that_of_torchs_cross_entropy():
    """At T = 1, KL and the cross-entropy with soft labels differ by a constant."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    actual = torch.autograd.grad(value(SoftTargetLoss(1.0), student, teacher), student)
    expected = torch.autograd.grad(F.cross_entropy(student, teacher.softmax(dim=-1)), student)
    torch.testing.assert_close(actual, expected)


def test_order_of_the_arguments():
    """KL is not symmetric: a teacher that is sure punishes a student that is not, by log 2."""
    sure, unsure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    actual = value(SoftTargetLoss(1.0), unsure, sure)
    torch.testing.assert_close(actual, torch.tensor(2.0).log())
    assert float(value(SoftTargetLoss(1.0), sure, unsure)) > 10


def test_high_temperature_matches_logits():
    """As T grows, T^2 KL tends to half the variance of the difference of the logits."""
    student, teacher = logits(0), logits(1)
    difference = student - teacher
    expected = (difference - difference.mean(dim=1, keepdim=True)).square().mean(dim=1).mean() / 2
    torch.testing.assert_close(
        value(SoftTargetLoss(1e4), student, teacher), expected, rtol=1e-3, atol=0
    )


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]).requires_grad_()
    loss = value(SoftTargetLoss(1.0), student, -student.detach())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_a_constant_added_to_all_logits_changes_nothing():
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(
        value(SoftTargetLoss(), student + 7, teacher - 3), value(SoftTargetLoss(), student, teacher)
    )


def test_no_gradient_into_the_teachers_logits():
    teacher = logits(1).requires_grad_()
    value(SoftTargetLoss(), logits(0).requires_grad_(), teacher).backward()
    assert teacher.grad is None


def test_refuses_other_classes():
    with pytest.raises(ArgumentError, match="logits"):
        value(SoftTargetLoss(), torch.rand(2, 5), torch.rand(2, 6))


@pytest.mark.parametrize("temperature", [0.0, -4.0, float("inf"), float("nan")])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ArgumentError, match=r"^temperature: expected"):
        SoftTargetLoss(temperature)


@pytest.mark.parametrize(
    ("shape", "class_dim"),
    [
        ((6, 4, 5, 7), None),
        ((2, 4, 3, 5, 7), None),
        ((6, 4, 9), 1),
        ((6, 9, 4), -1),
        ((6, 5, 7, 4), 3),
    ],
)
def test_dense_logits_are_compared_over_their_classes(shape, class_dim):
    student, teacher = torch.randn(shape), torch.randn(shape)
    dim = 1 if class_dim is None else class_dim
    expected = F.kl_div(
        student.log_softmax(dim), teacher.log_softmax(dim), log_target=True, reduction="none"
    )
    torch.testing.assert_close(
        value(SoftTargetLoss(1.0, class_dim), student, teacher), expected.sum(dim).mean()
    )


def test_one_logit_is_that_of_a_binary_classifier():
    student, teacher = torch.randn(6, 1), torch.randn(6, 1)
    p, q = (teacher / 4).sigmoid(), (student / 4).sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(value(SoftTargetLoss(), student, teacher), 16 * expected.mean())


@pytest.mark.parametrize(("shape", "class_dim"), [((6,), None), ((6, 4, 9), None), ((6, 4), 2)])
def test_refuses_logits_whose_classes_are_unknown(shape, class_dim):
    with pytest.raises(ArgumentError, match=r"^logits: .*class_dim"):
        value(SoftTargetLoss(4.0, class_dim), torch.rand(shape), torch.rand(shape))


def test_refuses_the_images_as_classes():
    with pytest.raises(ArgumentError, match=r"^class_dim: expected"):
        SoftTargetLoss(class_dim=0)
