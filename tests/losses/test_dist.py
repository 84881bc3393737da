"""DIST and standardised logits: the peers' values, parts of a batch, degenerate logits."""

import importlib

import pytest
import torch

import references
from feature_maps import logits
from svdistill.common.errors import ArgumentError
from svdistill.losses import DISTLoss, LogitStandardizationLoss, SoftTargetLoss
from svdistill.parallel import BatchPart

pytest.importorskip("torchdistill", reason="the extra `peers` is not installed")

PATHS = ("logits", "output", "logits", "output")


def peer(name, student, teacher, **options):
    loss = getattr(importlib.import_module("torchdistill.losses.mid_level"), name)
    return loss(*PATHS, **options)(*({"logits": {"output": side}} for side in (student, teacher)))


def value(loss, student, teacher):
    return loss([], student, loss.extract([], teacher))


@pytest.mark.parametrize("weights", [(4.0, 2.0, 2.0), (1.0, 0.0, 3.0)])
def test_dist_equals_torchdistills_where_the_student_varies_more(weights):
    student, teacher = 3 * logits(0, 5), 0.2 * logits(1, 5)
    tau, beta, gamma = weights
    expected = peer("DISTLoss", student, teacher, tau=tau, beta=beta, gamma=gamma)
    torch.testing.assert_close(value(DISTLoss(*weights), student, teacher), expected)


def test_a_student_that_varies_less_is_measured_by_the_teachers_spread():
    student, teacher = 0.2 * logits(0, 5), 3 * logits(1, 5)
    actual = float(value(DISTLoss(), student, teacher))
    assert actual == pytest.approx(references.dist_loss(student, teacher), rel=1e-9)
    assert actual < float(peer("DISTLoss", student, teacher, tau=4.0, beta=2.0, gamma=2.0))


def test_logits_that_are_too_small_are_made_to_grow():
    """A correlation alone hardly changes with their scale."""
    teacher = 3 * logits(1, 5)
    sizes = (0.01, 0.1, 0.3, 0.6, 1.0)
    losses = [float(value(DISTLoss(), size * teacher, teacher)) for size in sizes]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 20
    assert losses[-1] == 0
    assert float(value(DISTLoss(), 2 * teacher, teacher)) < 0.1 * losses[0]


def test_standardised_logits_equal_torchdistills():
    """Given alpha and beta; without a hard loss it leaves out the factor T^2."""
    student, teacher = logits(0, 5), logits(1, 5)
    options = {"temperature": 2.0, "alpha": 0.0, "beta": 1.0}
    expected = 9 * 4 * peer("LogitStdKDLoss", student, teacher, **options)
    actual = value(LogitStandardizationLoss(), student, teacher)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_standardised_logits_have_no_scale_nor_mean():
    student, teacher = logits(0, 5), logits(1, 5)
    loss = LogitStandardizationLoss()
    expected = value(loss, student, teacher)
    torch.testing.assert_close(value(loss, 3 * student - 7, 0.1 * teacher + 1), expected)
    pixels = student[:, :, None, None].expand(5, -1, 2, 3)
    taught = teacher[:, :, None, None].expand(5, -1, 2, 3)
    torch.testing.assert_close(value(loss, pixels, taught), expected)


@pytest.mark.parametrize("loss", [DISTLoss(), LogitStandardizationLoss()], ids=["dist", "lskd"])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e20])
def test_constant_and_extreme_logits_stay_finite(loss, size):
    student = (size * logits(0, 5, torch.float32)).requires_grad_()
    out = value(loss, student, logits(1, 5, torch.float32))
    out.backward()
    assert out.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize(("images", "classes"), [(7, 37), (64, 100), (128, 10)])
def test_almost_constant_predictions_have_a_bounded_gradient(size, images, classes):
    """That of correlations without a smallest spread is 1e6 at zero and 1e4 at 1e-3."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, images, classes, generator=generator)
    student = (size * student).requires_grad_()
    value(DISTLoss(), student, 3 * teacher).backward()
    assert 0.1 < student.grad.norm() < 100


def test_the_gradient_of_almost_constant_predictions_agrees_with_finite_differences():
    spread = torch.tensor([0.02, 0.1, 0.5, 1.0, 2.0]).double()  # on both sides of the smallest
    student = (spread[:, None] * logits(0, 5)).requires_grad_()
    knowledge = DISTLoss().extract([], logits(1, 5))
    assert torch.autograd.gradcheck(lambda x: DISTLoss()([], x, knowledge), (student,))


def test_one_image_has_no_relation_within_a_class():
    student, teacher = logits(0, 1), logits(1, 1)
    inter, both = (value(DISTLoss(4.0, 2.0, gamma), student, teacher) for gamma in (0.0, 2.0))
    assert torch.equal(inter, both)


def test_dist_refuses_a_part_of_a_batch_and_negative_weights():
    loss = DISTLoss()
    part = BatchPart(images=8, labelled=8, processes=1)
    with pytest.raises(ArgumentError, match=r"^DISTLoss: expected all 8 images"):
        loss.of_part([], logits(0, 4), loss.extract([], logits(1, 4)), part)
    with pytest.raises(ArgumentError, match=r"^inter_weight: "):
        DISTLoss(inter_weight=-1.0)
    with pytest.raises(ArgumentError, match=r"^weight: "):
        LogitStandardizationLoss(weight=0.0)


def test_they_read_the_knowledge_of_soft_targets():
    knowledge = SoftTargetLoss().extract([], logits(1))
    for loss in (DISTLoss(), LogitStandardizationLoss()):
        expected = value(loss, logits(0), logits(1))
        assert torch.equal(loss([], logits(0), loss.select(knowledge)), expected)
