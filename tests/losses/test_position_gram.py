"""The losses of whole Gram matrices of positions: grids, knowledge, and what they are near to."""

import pytest
import torch

import references
from feature_maps import maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import (
    CosineAffinityLoss,
    PositionGramKnowledge,
    PositionGramLoss,
    PositionSVDLoss,
    SumLoss,
)

FINE, COARSE = [(6, 8, 6), (5, 4, 4)], [(9, 4, 3), (4, 2, 4)]


def value(loss, student, teacher):
    return loss(student, None, loss.extract(teacher, None))


@pytest.mark.parametrize("sides", [(FINE, FINE), (FINE, COARSE), (COARSE, FINE)])
@pytest.mark.parametrize("grid", [None, 3, 5])
def test_is_position_svd_with_all_vectors(sides, grid):
    student, teacher = (maps(seed, shapes=shapes) for seed, shapes in enumerate(sides))
    expected = value(PositionSVDLoss(48, grid=grid), student, teacher)
    torch.testing.assert_close(value(PositionGramLoss(grid), student, teacher), expected)


def test_a_term_is_twice_one_minus_linear_cka():
    """Kornblith et al., equation 3, of the maps' positions, without centring."""
    (student,), (teacher,) = maps(0, 1, [(6, 4, 4)]), maps(1, 1, [(5, 4, 4)])
    X, Y = (torch.from_numpy(references.as_matrices(one)[0]) for one in (student, teacher))
    cka = (Y.T @ X).square().sum() / ((X.T @ X).norm() * (Y.T @ Y).norm())
    torch.testing.assert_close(value(PositionGramLoss(), [student], [teacher]), 2 - 2 * cka)


def test_cosines_of_a_pooled_map_come_from_the_gram_matrix_of_the_whole_one():
    student, teacher = maps(0, shapes=COARSE), maps(1, shapes=FINE)
    pooled = [
        torch.nn.functional.adaptive_avg_pool2d(
            feature, tuple(map(min, zip(feature.shape[2:], other.shape[2:], strict=True)))
        )
        for features, others in ((student, teacher), (teacher, student))
        for feature, other in zip(features, others, strict=True)
    ]
    expected = references.cosine_affinity_loss(pooled[:2], pooled[2:])
    actual = value(CosineAffinityLoss(grid=None), student, teacher)
    assert float(actual) == pytest.approx(expected, rel=1e-10)


def test_a_dead_position_has_cosine_zero():
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])[None]
    teacher = torch.tensor([[2.0], [2.0], [2.0]])[None]
    # Of nine cosines the student's are 1 in four places, the teacher's in all: five differ by 1.
    student.requires_grad_()
    loss = value(CosineAffinityLoss(), [student], [teacher])
    torch.testing.assert_close(loss, torch.tensor(50 / 9))
    loss.backward()
    assert student.grad.isfinite().all()


def test_one_knowledge_serves_both_and_a_finer_grid_is_refused():
    teacher = maps(1, shapes=FINE)
    knowledge = CosineAffinityLoss(grid=4).extract(teacher, None)
    assert isinstance(knowledge, PositionGramKnowledge)
    assert [tuple(gram.shape) for gram in knowledge.gram_matrices] == [(3, 4, 4, 16)] * 2
    loss = PositionGramLoss(grid=4)
    student = maps(0, shapes=FINE)
    assert torch.equal(loss(student, None, loss.select(knowledge)), value(loss, student, teacher))
    with pytest.raises(ArgumentError, match=r"^knowledge: expected .*grid=3"):
        PositionGramLoss(grid=3).select(knowledge)


@pytest.mark.parametrize("grids", [(2, 3, 4, 5), (5, 4, 3, 2)])
def test_of_several_grids_the_finest_that_fits_is_read(grids):
    student, teacher = maps(0, shapes=FINE), maps(1, shapes=FINE)
    several = SumLoss([PositionGramLoss(grid=grid) for grid in grids], [1.0] * len(grids))
    loss = PositionGramLoss(grid=4)
    selected = loss.select(several.extract(teacher, None))
    assert torch.equal(loss(student, None, selected), value(loss, student, teacher))
