"""The FSP loss: pooling, normalisation, and what it refuses."""

import pytest
import torch

import references
from feature_maps import SHAPES, maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import FSPLoss
from svdistill.losses.fsp import pool_by_gather


def value(student, teacher):
    loss = FSPLoss()
    return loss(student, None, loss.extract(teacher, None))


def test_by_hand():
    """Two channels against one, over two positions."""
    student = [torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), torch.tensor([[[[1.0, 1.0]]]])]
    teacher = [torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]]])]
    # G_S = [3/2, 7/2], G_T = [1/2, 1/2]: half of 1 + 9, over two entries.
    torch.testing.assert_close(value(student, teacher), torch.tensor(2.5))


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 4, 6), (5, 4, 6)],
        [(3, 8, 6), (5, 4, 3)],  # the front is pooled
        [(3, 4, 3), (5, 8, 6)],  # the back is pooled
        [(3, 8, 3), (5, 4, 6)],  # each in one direction
        [(3, 8, 8), (5, 4, 4), (7, 2, 2), (2, 1, 1)],
    ],
)
def test_pools_the_larger_map_to_the_smaller(shapes):
    student, teacher = maps(0, shapes=shapes), maps(1, shapes=shapes)
    assert float(value(student, teacher)) == pytest.approx(
        references.fsp_loss(student, teacher), rel=1e-12
    )


def test_pools_by_the_maximum_also_below_zero():
    shapes = [(3, 8, 6), (5, 4, 3)]
    student, teacher = ([feature - 0.5 for feature in maps(s, shapes=shapes)] for s in (0, 1))
    assert float(value(student, teacher)) == pytest.approx(
        references.fsp_loss(student, teacher), rel=1e-12
    )


def test_sizes_that_do_not_divide_are_pooled_too():
    shapes = [(3, 7, 5), (5, 4, 3)]
    assert value(maps(0, shapes=shapes), maps(1, shapes=shapes)).isfinite()


def test_maps_of_different_size_for_student_and_teacher():
    student, teacher = (
        maps(0, shapes=[(6, 4, 6), (5, 2, 3)]),
        maps(1, shapes=[(6, 8, 6), (5, 4, 3)]),
    )
    expected = references.fsp_loss(student, teacher)
    assert float(value(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_is_the_square_and_not_the_norm():
    """Twice the distance is four times the loss."""
    zero = [torch.zeros_like(feature) for feature in maps(1)]
    student = maps(0)
    doubled = [2**0.5 * feature for feature in student]  # doubles every Gram matrix
    torch.testing.assert_close(value(doubled, zero), 4 * value(student, zero))


@pytest.mark.parametrize("tap", [0, 1, 2])
def test_refuses_channels_that_differ(tap):
    shapes = list(SHAPES)
    shapes[tap] = (7, *SHAPES[tap][1:])
    with pytest.raises(ArgumentError, match=rf"taps? .*{tap}"):
        value(maps(0, shapes=shapes), maps(1))


def test_refuses_too_few_or_unequally_many_taps():
    with pytest.raises(ArgumentError, match="at least 2 feature maps"):
        FSPLoss().extract(maps(0)[:1], None)
    with pytest.raises(ArgumentError, match=r"taps.*3.*got 2"):
        value(maps(0)[:2], maps(1))


def test_refuses_tokens_of_different_number():
    features = [torch.rand(2, 9, 4), torch.rand(2, 5, 4)]
    with pytest.raises(ArgumentError, match="taps 0 and 1"):
        FSPLoss().extract(features, None)


def test_float16_gradients_of_large_maps_stay_in_range():
    """The one in the middle gets two, which are added up before they are narrowed."""
    student = [(3000 * feature).half().requires_grad_() for feature in maps(0)]
    loss = value(student, [feature.half() for feature in maps(1)])
    loss.backward()
    assert loss.isfinite()
    assert all(feature.grad.isfinite().all() and feature.grad.any() for feature in student)


def test_pooling_by_place_is_maximum_pooling():
    gradients = []
    for pool in (pool_by_gather, torch.nn.functional.adaptive_max_pool2d):
        feature_map = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        pooled = pool(feature_map.requires_grad_(), (3, 2))
        pooled.square().sum().backward()
        gradients.append((pooled.detach(), feature_map.grad))
    torch.testing.assert_close(gradients[0], gradients[1])
