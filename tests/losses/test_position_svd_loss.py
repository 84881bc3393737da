"""The position SVD loss: invariances, grids of different size and kind, and its bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import references
from feature_maps import maps
from recorded_work import Recordable, recorded
from svdistill.common.errors import ArgumentError
from svdistill.losses import PositionSVDLoss, SVDLoss
from svdistill.losses.position_loss import pool_by_products

WIDE, NARROW = [(9, 8, 6), (7, 4, 3)], [(4, 8, 6), (5, 4, 3)]


def value(loss, student, teacher):
    return loss(student, None, loss.extract(teacher, None))


def one_tap(student, teacher, k=4):
    return float(value(PositionSVDLoss(k), [student], [teacher]))


def as_tokens(feature, prefix=0, seed=0):
    """A map [B, D, H, W] as tokens [B, T, D], behind some of noise."""
    noise = 10 * torch.rand(
        *(len(feature), prefix, feature.shape[1]),
        generator=torch.Generator().manual_seed(seed),
        dtype=feature.dtype,
    )
    return torch.cat([noise, feature.flatten(2).mT], dim=1)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    k=st.integers(1, 9),
    batch=st.integers(1, 3),
    student=st.lists(st.tuples(*[st.integers(2, 7)] * 3), min_size=1, max_size=3),
    teacher=st.lists(st.tuples(*[st.integers(2, 7)] * 3), min_size=3, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula_with_explicit_matrices(k, batch, student, teacher, seed):
    """Channels and grids of any size, none of which need divide another."""
    students, teachers = maps(seed, batch, student), maps(seed + 1, batch, teacher[: len(student)])
    expected = references.position_svd_loss(students, teachers, k)
    actual = float(value(PositionSVDLoss(k), students, teachers))
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_is_two_minus_twice_the_weighted_squared_cosines():
    (student,), (teacher,) = maps(0, 1, WIDE[:1]), maps(1, 1, NARROW[:1])
    (U_S, s_S, _), (U_T, s_T, _) = (
        np.linalg.svd(references.as_matrices(f)[0], full_matrices=False) for f in (student, teacher)
    )
    w_S, w_T = (s[:3] ** 2 / np.linalg.norm(s[:3] ** 2) for s in (s_S, s_T))
    expected = 2 - 2 * w_T @ (U_T[:, :3].T @ U_S[:, :3]) ** 2 @ w_S
    assert one_tap(student, teacher, 3) == pytest.approx(expected, rel=1e-10)


def test_untruncated_it_is_two_minus_twice_the_alignment_of_the_maps():
    (student,), (teacher,) = maps(0, 1, WIDE[:1]), maps(1, 1, NARROW[:1])
    X, Y = (references.as_matrices(feature)[0] for feature in (student, teacher))
    norm = np.linalg.norm
    alignment = norm(Y.T @ X) ** 2 / (norm(X.T @ X) * norm(Y.T @ Y))
    assert one_tap(student, teacher, 48) == pytest.approx(2 - 2 * alignment, rel=1e-10)


def test_lies_between_zero_and_two():
    """Nothing in common: one map is active where the other is not."""
    student, teacher = torch.zeros(2, 5, 3, 3), torch.zeros(2, 4, 3, 3)
    student[:, :, 0], teacher[:, :, 2] = torch.rand(2, 5, 3), torch.rand(2, 4, 3)
    assert one_tap(student, teacher) == pytest.approx(2 * 2, rel=1e-6)
    assert one_tap(student, student) == 0


@pytest.mark.parametrize("k", [1, 3, 5])
def test_channels_may_be_turned_mixed_and_scaled(k):
    student, teacher = maps(0, shapes=WIDE), maps(1, shapes=NARROW)
    expected = value(PositionSVDLoss(k), student, teacher)
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    for changed in (
        student[0].flip(1),
        -student[0],
        1e3 * student[0],
        torch.einsum("ed,bdhw->behw", rotation, student[0]),
        torch.cat([student[0], student[0]], dim=1),
    ):
        torch.testing.assert_close(
            value(PositionSVDLoss(k), [changed, student[1]], teacher), expected
        )
    scaled = [1e-3 * feature for feature in teacher]
    torch.testing.assert_close(value(PositionSVDLoss(k), student, scaled), expected)


def test_positions_may_not_be_moved_unless_in_both():
    student, teacher = maps(0, shapes=WIDE), maps(1, shapes=NARROW)
    expected = value(PositionSVDLoss(), student, teacher)
    moved = [student[0].roll(1, dims=3), student[1]]
    assert not torch.isclose(value(PositionSVDLoss(), moved, teacher), expected, rtol=1e-3)
    both = value(PositionSVDLoss(), moved, [teacher[0].roll(1, dims=3), teacher[1]])
    torch.testing.assert_close(both, expected)


def test_equal_singular_values_may_be_rotated():
    """The teacher's two vectors span the student's plane, turned in it by some angle."""
    basis = torch.linalg.qr(torch.randn(12, 2, dtype=torch.float64))[0]
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    student, teacher = basis.T.view(1, 2, 4, 3), (basis @ turn).T.view(1, 2, 4, 3)
    assert one_tap(student, teacher, 2) < 1e-14


class TestGrids:
    """Where a map's grid is not the other's."""

    @pytest.mark.parametrize("finer", ["student", "teacher"])
    def test_a_map_and_its_pooled_self_are_equal(self, finer):
        (large,) = maps(0, shapes=[(5, 8, 6)])
        small = torch.nn.functional.adaptive_avg_pool2d(large, (4, 3))
        pair = (large, small) if finer == "student" else (small, large)
        assert one_tap(*pair, k=5) < 1e-14

    @pytest.mark.parametrize("sizes", [((8, 6), (4, 3)), ((4, 3), (8, 6)), ((7, 3), (4, 5))])
    def test_gradient_equals_finite_differences(self, sizes):
        (student,), (teacher,) = (
            maps(seed, 2, [(3 + seed, *size)]) for seed, size in enumerate(sizes)
        )
        loss = PositionSVDLoss(2)
        knowledge = loss.extract([teacher], None)
        assert torch.autograd.gradcheck(
            lambda feature: loss([feature], None, knowledge), student.requires_grad_()
        )

    @pytest.mark.parametrize("prefix", [0, 1, 2, 5])
    @pytest.mark.parametrize("who", ["student", "teacher"])
    def test_tokens_are_a_square_grid_behind_their_prefix(self, who, prefix):
        """With all their vectors: the teacher's are those of all tokens, whatever is cut later."""
        (student,), (teacher,) = maps(0, shapes=[(6, 5, 5)]), maps(1, shapes=[(4, 5, 5)])
        expected = one_tap(student, teacher, k=6)
        if who == "student":
            student = as_tokens(student, prefix)
        else:
            teacher = as_tokens(teacher, prefix)
        assert one_tap(student, teacher, k=6) == pytest.approx(expected, rel=1e-10)

    def test_tokens_of_two_patch_sizes(self):
        (student,), (teacher,) = maps(0, shapes=[(6, 4, 4)]), maps(1, shapes=[(9, 8, 8)])
        expected = references.position_svd_loss([student], [teacher], 16)
        actual = one_tap(as_tokens(student, 1), as_tokens(teacher), 16)
        assert actual == pytest.approx(expected, rel=1e-10)

    def test_a_class_token_counts_where_both_have_as_many_tokens(self):
        (student,), (teacher,) = maps(0, shapes=[(6, 4, 4)]), maps(1, shapes=[(9, 4, 4)])
        teacher = as_tokens(teacher, 1)
        first, second = (one_tap(as_tokens(student, 1, seed), teacher) for seed in (0, 1))
        assert first != pytest.approx(second, rel=1e-3)

    def test_as_many_positions_in_another_shape_are_compared_as_they_are(self):
        """Twelve tokens of a 4x3 map are no square grid, and need not be one."""
        (student,), (teacher,) = maps(0, shapes=[(6, 4, 3)]), maps(1, shapes=[(9, 4, 3)])
        expected = one_tap(student, teacher)
        assert one_tap(as_tokens(student), teacher) == pytest.approx(expected, rel=1e-10)
        assert one_tap(student, as_tokens(teacher)) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("who", ["student", "teacher"])
    def test_tokens_that_are_no_grid(self, who):
        pair = [torch.rand(2, 140, 6), torch.rand(2, 8, 7, 7)]
        with pytest.raises(ArgumentError, match=r"positions at tap 0: .*square .*got 140 tokens"):
            one_tap(*(pair if who == "student" else pair[::-1]))


def test_a_student_of_other_layout_and_size_is_drawn_to_its_teacher():
    """Tokens against a map: what descends is only the student."""
    teacher = maps(11, batch=2, shapes=[(9, 8, 8), (7, 4, 4)])
    loss = PositionSVDLoss(2)
    knowledge = loss.extract(teacher, None)
    student = [
        as_tokens(f, 1).requires_grad_() for f in maps(1, batch=2, shapes=[(5, 4, 4), (6, 4, 4)])
    ]
    optimizer = torch.optim.Adam(student, lr=0.02)
    history = []
    for _ in range(100):
        optimizer.zero_grad()
        out = loss(student, None, knowledge)
        out.backward()
        optimizer.step()
        history.append(out.item())
    assert history[-1] < 0.01 * history[0]


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("rank", [0, 1])
def test_maps_of_low_rank_stay_finite(k, rank):
    (teacher,) = maps(1, shapes=[(5, 4, 3)])
    pattern = torch.rand(3, 1, 4, 3, dtype=torch.float64)
    student = (rank * pattern * torch.rand(1, 6, 1, 1, dtype=torch.float64)).requires_grad_()
    actual = value(PositionSVDLoss(k), [student], [teacher])
    expected = references.position_svd_loss([student], [teacher], k)
    assert actual.item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(actual, student)
    assert gradient.isfinite().all()
    assert (float(gradient.norm()) > 1e-3) == bool(rank)


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e8, 1e15])
def test_tiny_and_huge_maps_in_single_precision(scale):
    (student,), (teacher,) = (maps(s, dtype=torch.float32, shapes=[(6, 4, 3)]) for s in (0, 1))
    expected = one_tap(student, teacher)
    large = (scale * student).requires_grad_()
    out = value(PositionSVDLoss(), [large], [scale * teacher])
    assert out.item() == pytest.approx(expected, rel=1e-4)
    (gradient,) = torch.autograd.grad(out, large)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


def test_an_image_that_is_not_finite_shows():
    (student,), (teacher,) = maps(0, shapes=[(6, 4, 3)]), maps(1, shapes=[(5, 4, 3)])
    student[1, 0, 0, 0] = float("nan")
    assert np.isnan(one_tap(student, teacher))


class Largest(TorchDispatchMode):
    """Keeps the largest number of entries that any tensor had."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def test_no_matrix_of_positions_by_positions_is_made():
    student, teacher = torch.rand(1, 8, 56, 56).requires_grad_(), torch.rand(1, 6, 56, 56)
    with Largest() as largest:
        value(PositionSVDLoss(), [student], [teacher]).backward()
    assert largest.entries <= 4 * student.numel() < 3136**2


def test_a_step_can_be_recorded():
    """With both grids pooled and tokens cut."""
    student = [torch.rand(2, 6, 4, 4).requires_grad_(), torch.rand(2, 17, 6).requires_grad_()]
    loss = PositionSVDLoss()
    knowledge = loss.extract([torch.rand(2, 5, 8, 8), torch.rand(2, 5, 3, 3)], None)
    with recorded(), Recordable():
        loss(student, None, knowledge).backward()
    assert all(feature.grad.norm() > 0 for feature in student)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_selects_its_own_of_richer_knowledge(k):
    student = [*maps(0, shapes=WIDE), as_tokens(*maps(0, shapes=[(6, 4, 4)]), 1)]
    teacher = [*maps(1, shapes=NARROW), as_tokens(*maps(1, shapes=[(5, 2, 2)]))]
    loss = PositionSVDLoss(k)
    own, selected = (
        loss.extract(teacher, None),
        loss.select(PositionSVDLoss(16).extract(teacher, None)),
    )
    for found, expected in zip(selected.tensors(), own.tensors(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss(student, None, selected), loss(student, None, own))


def test_knowledge_keeps_as_many_vectors_as_a_map_has():
    knowledge = PositionSVDLoss(6).extract(maps(0, shapes=[(5, 4, 3), (9, 2, 2)]), None)
    assert [tuple(v.shape) for v in knowledge.left_vectors] == [(3, 4, 3, 5), (3, 2, 2, 4)]
    assert [tuple(s.shape) for s in knowledge.singular_values] == [(3, 6), (3, 6)]
    assert (knowledge.singular_values[1][:, 4:] == 0).all()


def test_refuses_knowledge_of_another_k_or_kind():
    student, teacher = maps(0), maps(1)
    for poorer in (PositionSVDLoss(3).extract(teacher, None), SVDLoss(8).extract(teacher, None)):
        with pytest.raises(ArgumentError, match=r"^knowledge: expected PositionSVDKnowledge"):
            PositionSVDLoss(4).select(poorer)
    with pytest.raises(ArgumentError, match=r"^num_vectors: expected the teacher's 8"):
        PositionSVDLoss(4)(student, None, PositionSVDLoss(8).extract(teacher, None))


@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 6), (2, 6, 1, 1)])
def test_refuses_single_positions_alone(shape):
    loss, one, several = PositionSVDLoss(2), torch.rand(shape), torch.rand(2, 5, 3, 3)
    with pytest.raises(ArgumentError, match=r"^positions: expected 2 or more .*before the pooling"):
        loss.extract([one, one], None)
    with pytest.raises(ArgumentError, match=r"^positions: expected 2 or more .*before the pooling"):
        loss([one, one], None, loss.extract([several, several], None))


@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 6), (2, 6, 1, 1)])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_single_position_in_either_adds_nothing(who, shape):
    loss, one = PositionSVDLoss(2), torch.rand(shape)
    student, teacher, other = (torch.rand(2, 5, 3, 3, requires_grad=True) for _ in range(3))
    alone = loss([student], None, loss.extract([teacher], None))
    pair = (one, other) if who == "student" else (other, one)
    beside = loss([student, pair[0]], None, loss.extract([teacher, pair[1]], None))
    assert float(beside.detach()) == float(alone.detach()) > 0
    gradients = torch.autograd.grad(beside, [student, other], allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_refuses_other_numbers_of_taps_and_features_that_are_no_maps():
    loss = PositionSVDLoss()
    with pytest.raises(ArgumentError, match="at least 1 feature map, got 0"):
        loss.extract([], None)
    with pytest.raises(ArgumentError, match=r"number of taps: expected the teacher's 3, got 2"):
        loss(maps(0)[:2], None, loss.extract(maps(1), None))
    with pytest.raises(ArgumentError, match="features"):
        loss.extract([torch.rand(2, 3, 4, 5, 6, 2)], None)


@pytest.mark.parametrize(
    ("argument", "wrong"), [("num_vectors", 0), ("num_vectors", 1.5), ("reduction", "none")]
)
def test_refuses_bad_options_by_name(argument, wrong):
    with pytest.raises(ArgumentError, match=f"^{argument}: expected"):
        PositionSVDLoss(**{argument: wrong})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("spread", [25, 5])
def test_channels_of_very_different_scales_stay_finite(spread, dtype):
    """Values far below the rounding of the first have no left vectors to speak of."""
    (student,), (teacher,) = maps(0, shapes=[(6, 4, 3)]), maps(1, shapes=[(6, 4, 3)])
    exponents = torch.linspace(-spread, min(spread, 4), 6, dtype=torch.float64).view(6, 1, 1)
    student = (student * 10.0**exponents).to(dtype).requires_grad_()
    loss = value(PositionSVDLoss(6), [student], [teacher.to(dtype)])
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_maps_that_share_one_position_alone_are_refused():
    """Each has more, but pooled to a common grid they relate to nothing, and there is no graph."""
    student, teacher = maps(0, shapes=[(6, 5, 1)]), maps(1, shapes=[(5, 1, 4)])
    with pytest.raises(ArgumentError, match=r"^positions: expected 2 or more that .* share"):
        value(PositionSVDLoss(2), student, teacher)


@pytest.mark.parametrize("size", [(3, 2), (4, 7), (1, 1)])
def test_pooling_by_products_is_average_pooling(size):
    positions = torch.rand(2, 7, 7, 3, dtype=torch.float64)
    pooled = torch.nn.functional.adaptive_avg_pool2d(positions.permute(0, 3, 1, 2), size)
    torch.testing.assert_close(pool_by_products(positions, size), pooled.permute(0, 2, 3, 1))


class TestGrid:
    """`grid` averages maps to at most that many positions a side before anything else."""

    def test_is_as_of_maps_that_were_averaged_before(self):
        student, teacher = maps(0, shapes=[(6, 8, 6), (5, 4, 3)]), maps(1, shapes=WIDE)
        pooled = [references.on_grid(features, 3) for features in (student, teacher)]
        actual = value(PositionSVDLoss(2, grid=3), student, teacher)
        assert float(actual) == pytest.approx(references.position_svd_loss(*pooled, k=2), rel=1e-10)

    def test_none_and_a_large_one_change_no_bit(self):
        student, teacher = maps(0, shapes=WIDE), maps(1, shapes=NARROW)
        usual = value(PositionSVDLoss(2), student, teacher)
        for grid in (None, 0, 8, 1000):
            assert torch.equal(value(PositionSVDLoss(2, grid=grid), student, teacher), usual)

    def test_tokens_behind_a_class_token_are_pooled_as_a_square(self):
        (student,), (teacher,) = maps(0, shapes=[(6, 4, 4)]), maps(1, shapes=[(5, 6, 6)])
        loss = PositionSVDLoss(2, grid=3)
        expected = value(loss, [student], [teacher])
        actual = value(loss, [as_tokens(student, prefix=1)], [as_tokens(teacher, prefix=2)])
        torch.testing.assert_close(actual, expected)

    def test_keeps_few_numbers_and_refuses_knowledge_on_a_finer_grid(self):
        loss = PositionSVDLoss(2, grid=3)
        knowledge = loss.extract(maps(1, shapes=WIDE), None)
        assert [tuple(U.shape) for U in knowledge.left_vectors] == [(3, 3, 3, 2), (3, 3, 3, 2)]
        assert loss.select(knowledge).left_vectors[0].shape == (3, 3, 3, 2)
        with pytest.raises(ArgumentError, match=r"^knowledge: expected .*grid=3"):
            loss.select(PositionSVDLoss(2).extract(maps(1, shapes=WIDE), None))

    @pytest.mark.parametrize("grid", [-1, 2.5, "8"])
    def test_refuses_what_is_no_count(self, grid):
        with pytest.raises(ArgumentError, match=r"^grid: "):
            PositionSVDLoss(grid=grid)
