"""A loss that is not finite names its tap before any gradient is made."""

import gc
import weakref

import pytest
import torch
from custom_loss import AttentionLoss

from feature_maps import logits, maps
from recorded_work import recorded
from svdistill.common.errors import TrainingError
from svdistill.losses import (
    AttentionTransferLoss,
    CosineAffinityLoss,
    FSPLoss,
    PositionGramLoss,
    PositionSVDLoss,
    SimilarityPreservingLoss,
    SoftTargetLoss,
    SumLoss,
    SVDLoss,
)
from svdistill.losses.finite import require_magnitude, source

LOSSES = {
    "svd": SVDLoss,
    "fsp": FSPLoss,
    "position svd": PositionSVDLoss,
    "gram of positions": lambda: PositionGramLoss(grid=3),
    "cosines of positions": CosineAffinityLoss,
    "attention transfer": AttentionTransferLoss,
    "sum": lambda: SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 1.0]),
    "a user's own": AttentionLoss,
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def networks(dtype=torch.float32):
    student = [feature.to(dtype).requires_grad_() for feature in maps(0)]
    return student, logits(0, dtype=dtype).requires_grad_(), [m.to(dtype) for m in maps(1)]


def broken(features, tap, image, value):
    with torch.no_grad():
        features[tap][image].view(-1)[3] = value


@every_loss
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_of_the_student(make, value, dtype):
    loss, (student, student_logits, teacher) = make(), networks(dtype)
    broken(student, 1, 2, value)
    out = loss(student, student_logits, loss.extract(teacher, logits(1)))
    assert not out.isfinite()  # to be seen by whoever looks
    what = "NaN" if value != value else "infinity"
    with pytest.raises(TrainingError, match=rf"student's tap 1: {what} in image 2 of 3; look for"):
        out.backward()
    assert all(feature.grad is None for feature in student)


@every_loss
def test_of_the_teacher(make):
    loss, (student, student_logits, teacher) = make(), networks()
    broken(teacher, 0, 1, float("nan"))
    out = loss(student, student_logits, loss.extract(teacher, logits(1)))
    with pytest.raises(TrainingError, match=r"from the teacher's .*: NaN in image 1 of 3"):
        out.backward()


def test_the_teachers_taps_have_names_too():
    student, _, teacher = networks()
    broken(teacher, 2, 1, float("nan"))
    for loss, place in (
        (SVDLoss(), "singular values at tap 2"),
        (PositionSVDLoss(), "singular values at tap 2"),
        (FSPLoss(), "gram matrices at tap 1 and tap 2"),
    ):
        said = source(student, None, loss.extract(teacher, None))
        assert said == f", from the teacher's {place}: NaN in image 1 of 3"


def test_of_the_logits():
    loss, (student, student_logits, _) = SoftTargetLoss(), networks()
    knowledge = loss.extract([], logits(1))
    with torch.no_grad():
        student_logits[1, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"the student's logits: NaN in image 1 of 3"):
        loss(student, student_logits, knowledge).backward()


def test_many_images_are_counted_not_listed():
    feature = torch.full((64, 2), float("nan"))
    assert source([feature], None, None, ["stage.3"]) == (
        ", from the student's tap 'stage.3': NaN in images 0, 1, 2, 3, 4, ... of 64"
    )


def test_finite_numbers_that_are_too_large_are_named():
    loss, (student, student_logits, teacher) = SoftTargetLoss(1e4), networks()
    huge = (1e36 * student_logits.detach()).requires_grad_()
    with pytest.raises(
        TrainingError, match=r"up to \d\.\de\+3\d at the student's logits, too large"
    ):
        loss(student, huge, loss.extract(teacher, logits(1))).backward()


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_maps_that_fsp_cannot_multiply(whose):
    """Their products' gradient would be infinite, or NaN, where the loss itself is finite."""
    student, _, teacher = networks()
    student = [1e-30 * student[0].detach(), *student[1:]]
    (student if whose == "student" else teacher)[1] = 1e30 * maps(2)[1].float()
    with pytest.raises(TrainingError, match=r"features at tap 1: expected magnitudes of at most"):
        FSPLoss()(student, None, FSPLoss().extract(teacher, None))


def test_magnitudes_of_nothing_and_of_what_is_recorded_are_not_looked_at():
    require_magnitude(0, torch.ones(0, 3), 1.0)
    with recorded():
        require_magnitude(0, torch.full((2, 3), 1e30), 1.0)


@pytest.mark.parametrize(
    "make",
    [PositionGramLoss, CosineAffinityLoss, AttentionTransferLoss, SimilarityPreservingLoss],
)
@pytest.mark.parametrize("size", [1e30, 1e-15, 1e-25, 1e-36, 1e-42])
def test_maps_of_any_size_have_finite_gradients(make, size):
    """Up to 1e-29 a map counts as zero; above it, the size changes nothing."""
    loss, (student, _, teacher) = make(), networks()
    usual = loss(student, logits(0), loss.extract(teacher, None))
    student = [(size * feature.detach()).requires_grad_() for feature in student]
    out = loss(student, logits(0), loss.extract([size * feature for feature in teacher], None))
    out.backward()
    assert all(feature.grad.isfinite().all() for feature in student)
    if size > 1e-26:
        torch.testing.assert_close(out, usual)


@every_loss
def test_a_finite_loss_keeps_no_features_after_its_backward_pass(make):
    """Also where its value is kept, as in a sum over an epoch."""
    loss, (leaves, student_logits, teacher) = make(), networks()
    student = [2.0 * leaf for leaf in leaves]
    out = loss(student, student_logits, loss.extract(teacher, logits(1)))
    storage = weakref.ref(student[0].untyped_storage())
    out.backward()
    del student
    gc.collect()
    assert storage() is None
    assert out.isfinite()


@every_loss
def test_a_recorded_step_does_not_look(make):
    loss, (student, student_logits, teacher) = make(), networks()
    broken(student, 1, 2, float("nan"))
    with recorded():
        loss(student, student_logits, loss.extract(teacher, logits(1))).backward()
