"""The SVD loss: alignment, weights, invariances, and the mistakes that other code makes."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import references
from feature_maps import SHAPES, maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import SVDLoss


def value(loss, student, teacher):
    return loss(student, None, loss.extract(teacher, None))


def map_with(values, height, width, seed, right_seed=0):
    """A map [1, D, H, W] with given singular values and right vectors that depend on right_seed."""
    left = torch.linalg.qr(torch.randn(height * width, len(values), generator=seeded(seed)))[0]
    right = torch.linalg.qr(torch.randn(6, len(values), generator=seeded(right_seed)))[0]
    matrix = (
        left.double() @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.double().T
    )
    return matrix.T.reshape(1, 6, height, width)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    k=st.integers(1, 3),
    beta=st.sampled_from([0.1, 1.0, 8.0, 50.0]),
    batch=st.integers(1, 3),
    sizes=st.lists(
        st.tuples(st.integers(3, 7), st.integers(1, 4), st.integers(3, 4)), min_size=2, max_size=4
    ),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula(k, beta, batch, sizes, seed):
    student, teacher = maps(seed, batch, sizes), maps(seed + 1, batch, sizes)
    expected = references.svd_loss(student, teacher, k, beta)
    actual = float(value(SVDLoss(k, beta=beta), student, teacher))
    assert actual == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_default_is_the_seeds():
    loss = SVDLoss()
    assert (loss.num_vectors, loss.beta, loss.gradient, loss.reduction) == (1, 8.0, "exact", "sum")


def test_mean_is_the_sum_over_the_number_of_images():
    student, teacher = maps(0, 3), maps(1, 3)
    total = value(SVDLoss(2), student, teacher)
    torch.testing.assert_close(value(SVDLoss(2, reduction="mean"), student, teacher), total / 3)


def test_no_factor_one_half():
    """One pair of single-channel-like vectors, by hand."""
    student = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])]
    teacher = [torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])]
    # Teacher's DFV: exp(-[[1, 0], [0, 1]] / 8); student's: exp(-[[0, 1], [1, 0]] / 8). The cosine
    # of the front vectors is 0, so the sign is free, and does not matter here.
    expected = 4 * (1 - torch.exp(torch.tensor(-1 / 8))) ** 2
    torch.testing.assert_close(value(SVDLoss(), student, teacher), expected)


def test_maps_of_different_size_for_student_and_teacher():
    """Only channels are compared: a student may pool earlier than its teacher."""
    student = maps(0, shapes=[(6, 3, 5), (5, 2, 3), (20, 1, 4)])
    teacher = maps(1, shapes=SHAPES)
    expected = references.svd_loss(student, teacher, 1)
    assert float(value(SVDLoss(), student, teacher)) == pytest.approx(expected, rel=1e-10)


def test_decomposition_is_over_channels_not_over_width():
    """Positions may be shuffled; channels may not."""
    student, teacher = maps(0), maps(1)
    expected = value(SVDLoss(2), student, teacher)
    order = torch.randperm(48, generator=seeded(0))
    shuffled = student[0].flatten(2)[:, :, order].view_as(student[0])
    torch.testing.assert_close(value(SVDLoss(2), [shuffled, *student[1:]], teacher), expected)
    transposed = student[0].mT.contiguous()
    torch.testing.assert_close(value(SVDLoss(2), [transposed, *student[1:]], teacher), expected)
    rolled = student[0].roll(1, dims=1)
    assert not torch.isclose(
        value(SVDLoss(2), [rolled, *student[1:]], teacher), expected, rtol=1e-3
    )


def test_rotating_the_positions_changes_nothing():
    student, teacher = maps(0), maps(1)
    rotation = torch.linalg.qr(torch.randn(48, 48, generator=seeded(1), dtype=torch.float64))[0]
    rotated = (student[0].flatten(2) @ rotation).view_as(student[0])
    torch.testing.assert_close(
        value(SVDLoss(2), [rotated, *student[1:]], teacher), value(SVDLoss(2), student, teacher)
    )


@pytest.mark.parametrize("factor", [-1.0, 1e-3, 1e3])
def test_sign_and_scale_of_a_students_map_change_nothing(factor):
    student, teacher = maps(0), maps(1)
    torch.testing.assert_close(
        value(SVDLoss(2), [factor * student[0], *student[1:]], teacher),
        value(SVDLoss(2), student, teacher),
    )


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_of_a_teachers_map_changes_nothing(factor):
    student, teacher = maps(0), maps(1)
    torch.testing.assert_close(
        value(SVDLoss(2), student, [factor * teacher[0], *teacher[1:]]),
        value(SVDLoss(2), student, teacher),
    )


def test_signs_of_the_teachers_vectors_count_for_nothing_when_the_student_agrees():
    """Knowledge from another solver may have other signs; an equal student still has loss 0."""
    features = maps(0)
    loss = SVDLoss(2)
    knowledge = loss.extract(features, None)
    flipped = type(knowledge)(
        knowledge.singular_values, tuple(-vectors for vectors in knowledge.right_vectors)
    )
    assert float(loss(features, None, flipped)) < 1e-20


def test_a_swap_of_two_close_vectors_is_undone():
    """The student has the teacher's vectors in another order of size: no loss is left."""
    teacher = [map_with([3.0, 2.0, 1.0], 3, 4, seed=1), map_with([2.0, 1.0, 0.5], 2, 3, seed=2)]
    student = [map_with([2.0, 3.0, 1.0], 3, 4, seed=3), map_with([0.9, 2.0, 0.5], 2, 3, seed=4)]
    assert float(value(SVDLoss(2), student, teacher)) < 1e-12


def test_the_student_offers_one_vector_more():
    """The teacher's second vector is the student's third: within reach of k = 2, not of k = 1."""
    teacher = [map_with([3.0, 2.0, 0.1], 3, 4, seed=1), map_with([3.0, 2.0, 0.1], 2, 3, seed=2)]
    student = [map_with([3.0, 1.0, 2.0], 3, 4, seed=3), map_with([3.0, 1.0, 2.0], 2, 3, seed=4)]
    assert float(value(SVDLoss(2), student, teacher)) < 1e-12
    third = [map_with([1.0, 2.0, 3.0], 3, 4, seed=3), map_with([1.0, 2.0, 3.0], 2, 3, seed=4)]
    assert float(value(SVDLoss(1), third, teacher)) > 1e-3


def test_two_teacher_vectors_may_choose_the_same_student_vector():
    angle = torch.tensor(0.6, dtype=torch.float64)
    basis = torch.eye(4, dtype=torch.float64)
    # The only candidates that are not orthogonal to the teacher's plane: one vector within it.
    teacher = torch.stack([3 * basis[0], 2 * basis[1]])[None]
    within = angle.cos() * basis[0] + angle.sin() * basis[1]
    student = torch.stack([3 * within, 2 * basis[2], basis[3]])[None]
    pair_student, pair_teacher = [student, student], [teacher, teacher]
    expected = references.svd_loss(pair_student, pair_teacher, k=2)
    actual = value(SVDLoss(2), pair_student, pair_teacher)
    assert float(actual) == pytest.approx(expected, rel=1e-10)
    chosen = references.svd_features(student[0].numpy(), teacher[0].numpy(), 2)[0]
    assert abs(chosen[2:]).max() < 1e-12  # both took `within`


def test_poster_gradient_of_tall_maps_points_elsewhere():
    """It loses all that lies outside the span of the student's two candidates."""
    shapes = [(6, 8, 6), (5, 6, 4)]
    found = []
    for gradient in ("exact", "poster"):
        student = [feature.requires_grad_() for feature in maps(0, shapes=shapes)]
        value(SVDLoss(1, gradient=gradient), student, maps(1, shapes=shapes)).backward()
        found.append(student[0].grad.flatten())
    assert found[0].norm() > 1e-6
    assert torch.nn.functional.cosine_similarity(*found, dim=0) < 0.95


def test_descending_the_exact_gradient_ends_at_the_teacher():
    """From most starts: the loss has other minima, from which the right sign is uphill."""
    loss = SVDLoss(1)
    knowledge = loss.extract(maps(11, batch=2), None)
    student = [feature.requires_grad_() for feature in maps(1, batch=2)]
    optimizer = torch.optim.Adam(student, lr=0.02)
    history = []
    for _ in range(100):
        optimizer.zero_grad()
        out = loss(student, None, knowledge)
        out.backward()
        optimizer.step()
        history.append(out.item())
    assert history[-1] < 1e-4 * history[0]


def test_sixteen_vectors_where_a_map_has_four_positions():
    """The paper's largest k at the end of a VGG, in float64 and the whole formula."""
    shapes = [(8, 4, 4), (16, 2, 2)]  # 16 positions by 8 channels, then 4 by 16
    student, teacher = maps(0, shapes=shapes), maps(1, shapes=shapes)
    loss = SVDLoss(16)
    knowledge = loss.extract(teacher, None)
    assert [tuple(v.shape) for v in knowledge.right_vectors] == [(3, 8, 8), (3, 16, 4)]
    expected = torch.zeros((), dtype=torch.float64)
    for image in range(3):
        front_S, front_T = aligned_by_hand(student[0][image], teacher[0][image])
        back_S, back_T = aligned_by_hand(student[1][image], teacher[1][image])
        assert (front_S.shape, back_S.shape) == ((8, 8), (16, 4))
        for place in range(4):  # the front's other four have no counterpart
            dfv_S, dfv_T = (
                torch.exp(-((front[:, None, place] - back[None, :, place]) ** 2) / 8)
                for front, back in ((front_S, back_S), (front_T, back_T))
            )
            expected += (dfv_S - dfv_T).square().sum()
    torch.testing.assert_close(loss(student, None, knowledge), expected, rtol=1e-10, atol=0)


def aligned_by_hand(student, teacher):
    """All right vectors [D, min(N, D)] of one image's maps [D, H, W], aligned and weighted."""
    V_S, V_T = (
        torch.linalg.svd(feature.flatten(1).T, full_matrices=False)[2].T
        for feature in (student, teacher)
    )
    sigma = torch.linalg.svdvals(teacher.flatten(1).T)
    V_T = references.fix_signs(V_T)
    cosines = V_T.T @ V_S
    choice = cosines.abs().argmax(dim=1)
    V_S = V_S[:, choice] * cosines.gather(1, choice[:, None]).sign().T
    return V_S * sigma / sigma.norm(), V_T * sigma / sigma.norm()


@pytest.mark.parametrize("k", [1, 3, 4, 5, 16])
@pytest.mark.parametrize("fewer", ["student", "teacher"])
def test_a_map_with_fewer_positions_than_the_other_networks(k, fewer):
    """A tap keeps as many vectors as both its maps have; its weights are over those."""
    wide, narrow = [(6, 4, 3), (5, 3, 2)], [(6, 2, 2), (5, 3, 1)]
    student, teacher = (
        maps(seed, shapes=narrow if fewer == who else wide)
        for seed, who in enumerate(("student", "teacher"))
    )
    student = [feature.requires_grad_() for feature in student]
    actual = value(SVDLoss(k), student, teacher)
    assert actual.item() == pytest.approx(references.svd_loss(student, teacher, k), rel=1e-9)
    actual.backward()
    assert all(feature.grad.isfinite().all() for feature in student)


def test_singular_values_that_a_map_does_not_have_are_zero():
    knowledge = SVDLoss(6).extract(maps(0, shapes=[(5, 2, 2), (8, 3, 2)]), None)
    few, all_six = knowledge.singular_values
    assert few.shape == all_six.shape == (3, 6)
    assert (few[:, 4:] == 0).all()
    assert (few[:, :4] > 0).all()
    assert (all_six > 0).all()


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_selects_its_own_of_richer_knowledge(k):
    """What it cuts from sixteen is what it would have extracted, and the loss is the same."""
    student, teacher = maps(0), maps(1)
    loss = SVDLoss(k)
    selected = loss.select(SVDLoss(16).extract(teacher, None))
    own = loss.extract(teacher, None)
    for found, expected in zip(selected.tensors(), own.tensors(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss(student, None, selected), loss(student, None, own))


def test_refuses_knowledge_of_another_k():
    """Also where a map, not the option, left few vectors at some tap."""
    student, teacher = maps(0), maps(1)
    poor, rich = (SVDLoss(k).extract(teacher, None) for k in (7, 9))
    message = r"^knowledge: expected SVDKnowledge .*num_vectors=8.*, got SVDKnowledge\(.*\[7\]"
    with pytest.raises(ArgumentError, match=message):
        SVDLoss(8).select(poor)
    SVDLoss(7).select(poor)
    for knowledge in (poor, rich):
        with pytest.raises(ArgumentError, match=r"^num_vectors: expected the teacher's (7|9)"):
            SVDLoss(8)(student, None, knowledge)


@pytest.mark.parametrize("tap", [0, 1, 2])
def test_refuses_channels_that_differ(tap):
    shapes = list(SHAPES)
    shapes[tap] = (7, 4, 3)
    with pytest.raises(ArgumentError, match=rf"tap {tap}.*got 7"):
        value(SVDLoss(), maps(0, shapes=shapes), maps(1))


def test_refuses_too_few_or_unequally_many_taps():
    with pytest.raises(ArgumentError, match="at least 2 feature maps"):
        SVDLoss().extract(maps(0)[:1], None)
    knowledge = SVDLoss().extract(maps(1), None)
    with pytest.raises(ArgumentError, match="at least 2 feature maps"):
        SVDLoss()(maps(0)[:1], None, knowledge)
    with pytest.raises(ArgumentError, match=r"taps.*3.*got 2"):
        SVDLoss()(maps(0)[:2], None, knowledge)


def test_refuses_features_that_are_no_maps():
    with pytest.raises(ArgumentError, match="features"):
        SVDLoss().extract([torch.rand(2, 3, 4, 5, 6, 2), torch.rand(2, 3, 4, 5, 6, 2)], None)


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("num_vectors", 0),
        ("num_vectors", -2),
        ("num_vectors", 1.5),
        ("beta", 0.0),
        ("beta", -8.0),
        ("beta", float("nan")),
        ("gradient", "exakt"),
        ("reduction", "none"),
    ],
)
def test_refuses_bad_options_by_name(argument, wrong):
    with pytest.raises(ArgumentError, match=f"^{argument}: expected"):
        SVDLoss(**{argument: wrong})


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-8, 1e8, 1e15, 1e30])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_tiny_and_huge_maps_teach_what_others_do(who, scale):
    """The squares of a teacher's values, by whose norm they are weighted, leave float32's range."""
    student, teacher = ([m.float() for m in maps(seed)] for seed in (0, 1))
    expected = value(SVDLoss(2), student, teacher)
    if who == "student":
        student = [scale * feature for feature in student]
    else:
        teacher = [scale * feature for feature in teacher]
    student = [feature.requires_grad_() for feature in student]
    actual = value(SVDLoss(2), student, teacher)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)
    actual.backward()
    assert all(feature.grad.isfinite().all() and feature.grad.any() for feature in student)
