"""What every transfer loss promises. A new loss is one more row in `LOSSES`."""

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from custom_loss import AttentionLoss

import references
from feature_maps import SMALL_SHAPES, logits, maps
from svdistill.common.errors import ArgumentError
from svdistill.losses import (
    AttentionTransferLoss,
    CosineAffinityLoss,
    DISTLoss,
    DKDLoss,
    FSPLoss,
    Knowledge,
    LogitStandardizationLoss,
    PositionGramLoss,
    PositionSVDLoss,
    SimilarityPreservingLoss,
    SoftTargetLoss,
    SumKnowledge,
    SumLoss,
    SVDLoss,
    TransferLoss,
)

LABEL = 2  # of every image, for losses that read labels


class Row(NamedTuple):
    make: Any  # () -> the loss
    reference: Any  # (student maps, student logits, teacher maps, teacher logits) -> float
    reads_features: bool = True
    reads_logits: bool = False
    relates_positions: bool = False
    over_images: str = "mean"


LOSSES = {
    "svd": Row(SVDLoss, lambda s, zs, t, zt: references.svd_loss(s, t), over_images="sum"),
    "svd of three, mean": Row(
        lambda: SVDLoss(num_vectors=3, beta=2.0, reduction="mean"),
        lambda s, zs, t, zt: references.svd_loss(s, t, k=3, beta=2.0) / len(zs),
    ),
    "svd of narrow kernel": Row(
        lambda: SVDLoss(num_vectors=2, beta=0.1),
        lambda s, zs, t, zt: references.svd_loss(s, t, k=2, beta=0.1),
        over_images="sum",
    ),
    "fsp": Row(FSPLoss, lambda s, zs, t, zt: references.fsp_loss(s, t)),
    "position svd": Row(
        PositionSVDLoss,
        lambda s, zs, t, zt: references.position_svd_loss(s, t),
        relates_positions=True,
        over_images="sum",
    ),
    "position svd of one, mean": Row(
        lambda: PositionSVDLoss(num_vectors=1, reduction="mean"),
        lambda s, zs, t, zt: references.position_svd_loss(s, t, k=1) / len(zs),
        relates_positions=True,
    ),
    "position svd on a grid": Row(
        lambda: PositionSVDLoss(num_vectors=2, grid=3),
        lambda s, zs, t, zt: references.position_svd_loss(
            *(references.on_grid(maps, 3) for maps in (s, t)), k=2
        ),
        relates_positions=True,
        over_images="sum",
    ),
    "gram of positions": Row(
        lambda: PositionGramLoss(grid=3),
        lambda s, zs, t, zt: references.position_gram_loss(
            *(references.on_grid(maps, 3) for maps in (s, t))
        ),
        relates_positions=True,
        over_images="sum",
    ),
    "whole gram of positions": Row(
        lambda: PositionGramLoss(grid=None, reduction="mean"),
        lambda s, zs, t, zt: references.position_svd_loss(s, t, k=48) / len(zs),
        relates_positions=True,
    ),
    "cosines of positions": Row(
        lambda: CosineAffinityLoss(grid=4),
        lambda s, zs, t, zt: references.cosine_affinity_loss(
            *(references.on_grid(maps, 4) for maps in (s, t))
        ),
        relates_positions=True,
    ),
    "attention transfer": Row(
        AttentionTransferLoss,
        lambda s, zs, t, zt: 1000 * references.attention_loss(s, t),
        relates_positions=True,
    ),
    "similarity preserving": Row(
        SimilarityPreservingLoss,
        lambda s, zs, t, zt: references.similarity_preserving_loss(s, t),
        over_images="halved in two",
    ),
    "a user's own": Row(AttentionLoss, lambda s, zs, t, zt: references.attention_loss(s, t)),
    "soft target": Row(
        SoftTargetLoss,
        lambda s, zs, t, zt: references.soft_target_loss(zs, zt),
        reads_features=False,
        reads_logits=True,
    ),
    "logit standardization": Row(
        LogitStandardizationLoss,
        lambda s, zs, t, zt: (
            9 * references.soft_target_loss(*map(references.standardised, (zs, zt)), 2.0)
        ),
        reads_features=False,
        reads_logits=True,
    ),
    "dkd": Row(
        DKDLoss,
        lambda s, zs, t, zt: references.decoupled_loss(zs, zt, [LABEL] * len(zs)),
        reads_features=False,
        reads_logits=True,
    ),
    "dist": Row(
        DISTLoss,
        lambda s, zs, t, zt: references.dist_loss(zs, zt),
        reads_features=False,
        reads_logits=True,
    ),
    "sum": Row(
        lambda: SumLoss(
            [SVDLoss(reduction="mean"), FSPLoss(), SoftTargetLoss(2.0)], [2.0, 3.0, 0.5]
        ),
        lambda s, zs, t, zt: (
            2.0 * references.svd_loss(s, t) / len(zs)
            + 3.0 * references.fsp_loss(s, t)
            + 0.5 * references.soft_target_loss(zs, zt, 2.0)
        ),
        reads_logits=True,
    ),
}
DIFFERENTIATED = ("svd", "position svd")  # by code of their own, that a compiler may not follow
every_loss = pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES.keys())
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def networks(dtype=torch.float64, batch=3):
    """Student maps and logits, teacher maps and logits."""
    return (
        maps(0, batch, dtype=dtype),
        logits(0, batch, dtype),
        maps(1, batch, dtype=dtype),
        logits(1, batch, dtype),
    )


def call(loss, features, logits, knowledge, module=None):
    """The loss, or its compiled form, with labels where it reads them."""
    labels = {"labels": torch.full((len(logits),), LABEL)} if loss.needs_labels else {}
    return (loss if module is None else module)(features, logits, knowledge, **labels)


def value(loss, student, student_logits, teacher, teacher_logits):
    return call(loss, student, student_logits, loss.extract(teacher, teacher_logits))


@every_loss
@both_dtypes
def test_equals_its_formula(row, dtype):
    inputs = networks(dtype)
    loss = value(row.make(), *inputs)
    assert loss.shape == ()
    assert loss.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert float(loss) == pytest.approx(row.reference(*inputs), rel=tolerance)
    assert float(loss) > 0


@every_loss
def test_equals_its_formula_for_one_image(row):
    inputs = networks(batch=1)
    assert float(value(row.make(), *inputs)) == pytest.approx(row.reference(*inputs), rel=1e-10)


@every_loss
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_vectors_and_tokens_are_feature_maps_too(row, kind):
    """Tokens [B, T, D] are a map of T positions; vectors [B, D] one of a single position."""
    side = 1 if kind == "vectors" else 3
    shapes = [(6, side, side), (5, side, side), (20, side, side)]
    student, teacher = maps(0, shapes=shapes), maps(1, shapes=shapes)

    def reshape(feature):
        return feature.flatten(1) if kind == "vectors" else feature.flatten(2).mT

    as_maps = student, teacher
    student, teacher = [reshape(f) for f in student], [reshape(f) for f in teacher]
    if row.relates_positions and kind == "vectors":
        with pytest.raises(ArgumentError, match=r"^positions: expected 2 or more"):
            row.make().extract(teacher, None)
        return
    expected = row.reference(as_maps[0], logits(0), as_maps[1], logits(1))
    actual = value(row.make(), student, logits(0), teacher, logits(1))
    assert float(actual) == pytest.approx(expected, rel=1e-10)


@every_loss
def test_gradcheck(row):
    loss = row.make()
    knowledge = loss.extract(maps(1, 2, SMALL_SHAPES), logits(1, 2))
    student = [*maps(0, 2, SMALL_SHAPES), logits(0, 2)]
    inputs = [tensor.requires_grad_() for tensor in student]
    assert torch.autograd.gradcheck(
        lambda *tensors: call(loss, tensors[:-1], tensors[-1], knowledge), inputs, fast_mode=False
    )


@every_loss
@both_dtypes
def test_zero_where_the_student_equals_its_teacher(row, dtype):
    student, student_logits, *teacher = networks(dtype)
    loss = row.make()
    equal = float(value(loss, student, student_logits, student, student_logits))
    usual = float(value(loss, student, student_logits, *teacher))
    assert abs(equal) < (1e-12 if dtype == torch.float64 else 1e-6 * usual)


@every_loss
@both_dtypes
def test_never_negative(row, dtype):
    student, student_logits, *_ = networks(dtype)
    loss = row.make()
    knowledge = loss.extract(student, student_logits)
    rounding = torch.finfo(dtype).eps
    for size in (1.0, 1e-2, 1e-4):
        moved = [s + size * m for s, m in zip(student, maps(2, dtype=dtype), strict=True)]
        moved_logits = student_logits + size * logits(2, dtype=dtype)
        assert float(call(loss, moved, moved_logits, knowledge)) >= -10 * rounding


@every_loss
def test_gradient_reaches_the_student_and_never_the_teacher(row):
    """Every tap, also where a map has more positions than channels."""
    inputs = networks()
    for tensor in (*inputs[0], inputs[1], *inputs[2], inputs[3]):
        tensor.requires_grad_()
    loss = row.make()
    knowledge = loss.extract(inputs[2], inputs[3])
    assert not any(tensor.requires_grad for tensor in knowledge.tensors())
    call(loss, inputs[0], inputs[1], knowledge).backward()
    if row.reads_features:
        for feature in inputs[0]:
            per_image = feature.grad.flatten(1).norm(dim=1)
            assert (per_image > 1e-6).all()
    if row.reads_logits:
        assert (inputs[1].grad.norm(dim=1) > 1e-6).all()
    assert all(tensor.grad is None for tensor in (*inputs[2], inputs[3]))


@every_loss
def test_half_precision_features(row):
    half = networks(torch.bfloat16)
    expected = row.reference(*half)
    student = [feature.requires_grad_() for feature in half[0]]
    loss = value(row.make(), student, half[1].requires_grad_(), *half[2:])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.01)
    loss.backward()
    for tensor in (*student, half[1]):
        assert tensor.grad is None or (
            tensor.grad.isfinite().all() and tensor.grad.dtype == tensor.dtype
        )


@every_loss
def test_autocast_changes_little(row):
    inputs = networks(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = value(row.make(), *inputs)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(row.reference(*inputs), rel=1e-3)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=[] if name in DIFFERENTIATED else [pytest.mark.slow])
        for name, row in LOSSES.items()
    ],
)
def test_compiled_and_eager_agree(row):
    student, teacher = maps(0, shapes=SMALL_SHAPES), maps(1, shapes=SMALL_SHAPES)
    student_logits = logits(0)
    loss = row.make()
    knowledge = loss.extract(teacher, logits(1))
    gradients = []
    for module in (None, torch.compile(loss, backend="aot_eager")):
        inputs = [tensor.clone().requires_grad_() for tensor in (*student, student_logits)]
        out = call(loss, inputs[:-1], inputs[-1], knowledge, module)
        gradients.append([out.detach(), *torch.autograd.grad(out, inputs, allow_unused=True)])
    torch.testing.assert_close(gradients[1], gradients[0])


@every_loss
def test_order_of_the_images_changes_nothing(row):
    student, student_logits, teacher, teacher_logits = networks()
    order = torch.tensor([2, 0, 1])
    loss = row.make()
    shuffled = value(
        loss,
        [feature[order] for feature in student],
        student_logits[order],
        [feature[order] for feature in teacher],
        teacher_logits[order],
    )
    expected = value(loss, student, student_logits, teacher, teacher_logits)
    torch.testing.assert_close(shuffled, expected)


@every_loss
def test_sum_or_mean_over_images(row):
    """A batch twice, side by side: a sum doubles, a mean stays."""
    student, student_logits, teacher, teacher_logits = networks()
    loss = row.make()
    doubled = value(
        loss,
        [torch.cat([feature, feature]) for feature in student],
        torch.cat([student_logits, student_logits]),
        [torch.cat([feature, feature]) for feature in teacher],
        torch.cat([teacher_logits, teacher_logits]),
    )
    factor = {"sum": 2.0, "mean": 1.0, "halved in two": 0.5}[row.over_images]
    torch.testing.assert_close(
        doubled, factor * value(loss, student, student_logits, teacher, teacher_logits)
    )


@every_loss
def test_knowledge_is_batch_first_and_maps(row):
    student, student_logits, *teacher = networks(torch.float32)
    loss = row.make()
    knowledge = loss.extract(*teacher)
    assert isinstance(knowledge, Knowledge)
    assert isinstance(knowledge.tensors(), tuple)
    assert all(tensor.shape[0] == 3 for tensor in knowledge.tensors())
    assert all(tensor.grad_fn is None for tensor in knowledge.tensors())
    mapped = knowledge.map(lambda tensor: tensor.half().float())
    assert type(mapped) is type(knowledge)
    assert [t.shape for t in mapped.tensors()] == [t.shape for t in knowledge.tensors()]
    exact = float(call(loss, student, student_logits, knowledge))
    assert float(call(loss, student, student_logits, mapped)) == pytest.approx(exact, rel=0.02)
    # One image's knowledge, taken out of a batch, is that image's own.
    first = knowledge.map(lambda tensor: tensor[:1])
    alone = loss.extract([feature[:1] for feature in teacher[0]], teacher[1][:1])
    for left, right in zip(first.tensors(), alone.tensors(), strict=True):
        torch.testing.assert_close(left, right)


@every_loss
def test_selects_its_own_knowledge_alone_and_from_a_sum(row):
    loss = row.make()
    knowledge = loss.extract(*networks()[2:])
    for richer in (knowledge, SumKnowledge((Knowledge(), SumKnowledge((knowledge,))))):
        selected = loss.select(richer)
        assert type(selected) is type(knowledge)
        for found, expected in zip(selected.tensors(), knowledge.tensors(), strict=True):
            assert torch.equal(found, expected)
    with pytest.raises(ArgumentError, match=r"^knowledge: expected"):
        loss.select(SumKnowledge((Knowledge(),)))


@every_loss
def test_pickles_and_copies(row):
    inputs = networks()
    loss = row.make()
    expected = value(loss, *inputs)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert isinstance(other, TransferLoss)
        assert str(other) == str(loss)
        assert torch.equal(value(other, *inputs), expected)
    knowledge = loss.extract(*inputs[2:])
    for other in (pickle.loads(pickle.dumps(knowledge)), copy.deepcopy(knowledge)):
        assert torch.equal(call(loss, *inputs[:2], other), expected)


@every_loss
def test_has_nothing_to_train_or_to_save(row):
    assert not list(row.make().parameters())
    assert not row.make().state_dict()


@every_loss
def test_batches_that_differ_are_refused(row):
    loss = row.make()
    knowledge = loss.extract(maps(1, batch=2), logits(1, batch=2))
    with pytest.raises(ValueError, match="expected"):
        call(loss, maps(0, batch=3), logits(0, batch=3), knowledge)


@every_loss
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_maps_of_zeros_stay_finite(row, dead):
    """A dead ReLU network is a bad student, but not a reason for NaN."""
    student, student_logits, teacher, teacher_logits = networks(torch.float32)
    if dead != "teacher":
        student = [torch.zeros_like(feature) for feature in student]
    if dead != "student":
        teacher = [torch.zeros_like(feature) for feature in teacher]
    student = [feature.requires_grad_() for feature in student]
    loss = value(row.make(), student, student_logits.requires_grad_(), teacher, teacher_logits)
    loss.backward()
    assert loss.isfinite()
    assert all(feature.grad is None or feature.grad.isfinite().all() for feature in student)


@every_loss
def test_second_derivatives(row):
    student, teacher = maps(0, shapes=SMALL_SHAPES), maps(1, shapes=SMALL_SHAPES)
    inputs = [tensor.double() for tensor in (*student, logits(0))]
    loss = row.make()
    knowledge = loss.extract([tensor.double() for tensor in teacher], logits(1).double())

    def of_scale(scale, step):
        moved = [scale * tensor + step * tensor.cos() for tensor in inputs]
        return call(loss, moved[:-1], moved[-1], knowledge)

    at = torch.tensor(1.1, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(of_scale, [one.requires_grad_() for one in at])
    expected = torch.autograd.grad(of_scale(*at), at)
    actual = torch.func.grad(of_scale, (0, 1))(*(one.detach() for one in at))
    torch.testing.assert_close(actual, expected)
