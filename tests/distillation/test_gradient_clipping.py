import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from svdistill.common.errors import ArgumentError, TrainingError
from svdistill.distillation import multitask_backward
from svdistill.distillation.gradient_clipping import clip_scale

SHAPES = [(3, 4), (5,), (2, 2, 3), (1,)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def reference(g, h, parameter, clip, progress, weight_decay):
    """One tensor's transfer gradient after clipping, in float64 from the two texts."""
    g_norm = math.sqrt(sum(float(x) ** 2 for x in (g + weight_decay * parameter).ravel()))
    h_norm = math.sqrt(sum(float(x) ** 2 for x in h.ravel()))
    if clip == "none" or h_norm == 0:
        return h
    if clip == "norm":
        return h * min(1.0, sigmoid(progress) * g_norm / h_norm)
    return h * sigmoid(g_norm / h_norm - progress) if h_norm < g_norm else h


def losses_of(parameters, gradients):
    """A loss whose gradient at each parameter is the one given; None leaves the parameter out."""
    terms = [
        (parameter * torch.as_tensor(gradient, dtype=parameter.dtype)).sum()
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    ]
    return torch.stack(terms).sum()


def one_of_each(seed, dtype=torch.float64, scale=1.0):
    """Parameters, task gradients and transfer gradients, the latter from tiny to large."""
    random = np.random.default_rng(seed)
    parameters = [
        nn.Parameter(torch.tensor(random.standard_normal(s), dtype=dtype)) for s in SHAPES
    ]
    task = [random.standard_normal(shape) for shape in SHAPES]
    ratios = (0.01, 0.5, 3.0, 200.0)
    transfer = [
        ratio * scale * random.standard_normal(s) for ratio, s in zip(ratios, SHAPES, strict=True)
    ]
    return parameters, task, transfer


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
@pytest.mark.parametrize("progress", [0, 0.5, 3, 40, 199])
@pytest.mark.parametrize("clip", ["norm", "poster", "none"])
def test_agrees_with_the_equations(clip, progress, weight_decay):
    parameters, task, transfer = one_of_each(seed=int(progress))
    norms = multitask_backward(
        losses_of(parameters, task),
        losses_of(parameters, transfer),
        parameters,
        clip=clip,
        progress=progress,
        weight_decay=weight_decay,
    )
    clipped = [
        reference(g, h, parameter.detach().numpy(), clip, progress, weight_decay)
        for parameter, g, h in zip(parameters, task, transfer, strict=True)
    ]
    for parameter, g, h in zip(parameters, task, clipped, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), g + h, rtol=1e-12, atol=1e-14)
    for norm, gradients in zip(norms, (task, transfer, clipped), strict=True):
        assert float(norm) == pytest.approx(
            math.sqrt(sum((gradient**2).sum() for gradient in gradients)), rel=1e-12
        )


def test_weight_decay_counts_in_the_bound_but_not_in_the_gradient():
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    multitask_backward(0 * weight.sum(), 1e3 * weight.sum(), [weight], weight_decay=0.1)
    # |g| = 0.1 * 5, half of it at progress 0, along (1, 1).
    assert weight.grad.tolist() == pytest.approx([0.25 / math.sqrt(2)] * 2)


@pytest.mark.parametrize("clip", ["norm", "poster", "none"])
def test_what_one_loss_alone_reaches(clip):
    shared, head, adapter, idle = (nn.Parameter(torch.ones(3)) for _ in range(4))
    task = (shared + 2 * head).sum()
    transfer = (100 * shared + 300 * adapter).sum()
    multitask_backward(task, transfer, [shared, head, adapter, idle], clip=clip, progress=0)
    assert head.grad.tolist() == [2, 2, 2]
    assert adapter.grad.tolist() == [300, 300, 300]
    assert idle.grad is None


def test_gradients_are_separate_tensors():
    """Autograd hands both parameters of a sum one expanded tensor; clipping in place needs two."""
    left, right, other = (nn.Parameter(torch.ones(3)) for _ in range(3))
    multitask_backward((left + right).sum(), other.square().sum(), [left, right, other])
    nn.utils.clip_grad_norm_([left, right, other], 1.0)
    left.grad.zero_()
    assert right.grad.count_nonzero() == 3


def test_frozen_parameters_stay_untouched():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    weight = nn.Parameter(torch.ones(2))
    multitask_backward((frozen * weight).sum(), (frozen + weight).sum(), [frozen, weight])
    assert frozen.grad is None
    assert weight.grad is not None


def test_gradients_accumulate():
    parameters, task, transfer = one_of_each(seed=1)
    once = []
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)
    for expected_calls in (1, 2):
        multitask_backward(losses_of(parameters, task), losses_of(parameters, transfer), parameters)
        if expected_calls == 1:
            once = [parameter.grad - 7 for parameter in parameters]
    for parameter, gradient in zip(parameters, once, strict=True):
        torch.testing.assert_close(parameter.grad, 7 + 2 * gradient)
        assert not parameter.grad.requires_grad


def test_losses_may_share_their_graph_with_a_third():
    weight = nn.Parameter(torch.ones(2))
    features = weight.exp()
    third = features.sum()
    multitask_backward(features.sum(), features.square().sum(), [weight])
    weight.grad = None
    third.backward()
    assert weight.grad.tolist() == pytest.approx([math.e, math.e])


@pytest.mark.parametrize("clip", ["norm", "poster", "none"])
def test_a_zero_transfer_gradient_changes_nothing(clip):
    weight = nn.Parameter(torch.ones(3))
    norms = multitask_backward(weight.sum(), 0 * weight.sum(), [weight], clip=clip)
    assert weight.grad.tolist() == [1, 1, 1]
    assert (float(norms.transfer), float(norms.clipped)) == (0, 0)


@pytest.mark.parametrize(("clip", "expected"), [("norm", 0), ("poster", 5), ("none", 5)])
def test_a_zero_task_gradient(clip, expected):
    weight = nn.Parameter(torch.ones(3))
    multitask_backward(0 * weight.sum(), 5 * weight.sum(), [weight], clip=clip)
    assert weight.grad.tolist() == [expected] * 3


def test_both_gradients_zero():
    weight = nn.Parameter(torch.ones(3))
    norms = multitask_backward(0 * weight.sum(), 0 * weight.sum(), [weight])
    assert weight.grad.tolist() == [0, 0, 0]
    assert [float(norm) for norm in norms] == [0, 0, 0]


@pytest.mark.parametrize("progress", [0, 1e6, -1e6])
@pytest.mark.parametrize("transfer", [1e-38, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("task", [1e-38, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("clip", ["norm", "poster"])
def test_extreme_gradients_stay_finite(clip, task, transfer, progress):
    weight = nn.Parameter(torch.ones(3))
    multitask_backward(
        task * weight.sum(), transfer * weight.sum(), [weight], clip=clip, progress=progress
    )
    assert weight.grad.isfinite().all()
    if clip == "norm":
        assert float(weight.grad.max()) <= 2.001 * task


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_keep_their_dtype(dtype):
    parameters, task, transfer = one_of_each(seed=2, dtype=dtype)
    multitask_backward(losses_of(parameters, task), losses_of(parameters, transfer), parameters)
    for parameter, g, h in zip(parameters, task, transfer, strict=True):
        expected = g + reference(g, h, np.zeros_like(g), "norm", 0, 0.0)
        assert parameter.grad.dtype == dtype
        np.testing.assert_allclose(
            parameter.grad.float(),
            expected,
            rtol=2e-2 if dtype != torch.float32 else 1e-5,
            atol=2e-2,
        )


def test_half_precision_norms_do_not_overflow():
    """The squares of 300 values of 300 are beyond float16."""
    weight = nn.Parameter(torch.ones(300, dtype=torch.float16))
    norms = multitask_backward((300 * weight).sum(), weight.sum(), [weight])
    assert float(norms.task) == pytest.approx(300 * math.sqrt(300), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    progress=st.floats(-5, 300),
    magnitude=st.floats(-12, 12),
    weight_decay=st.sampled_from([0.0, 1e-4, 1.0]),
)
def test_norm_bounds_each_tensor_and_keeps_its_direction(seed, progress, magnitude, weight_decay):
    parameters, task, transfer = one_of_each(seed, dtype=torch.float32, scale=10.0**magnitude)
    multitask_backward(
        losses_of(parameters, task),
        losses_of(parameters, transfer),
        parameters,
        progress=progress,
        weight_decay=weight_decay,
    )
    for parameter, g, h in zip(parameters, task, transfer, strict=True):
        clipped = parameter.grad.double().numpy() - g
        decayed = np.linalg.norm(g + weight_decay * parameter.detach().double().numpy())
        rounding = 1e-6 * (np.linalg.norm(g) + np.linalg.norm(clipped))
        assert np.linalg.norm(clipped) <= sigmoid(progress) * decayed + rounding
        assert np.linalg.norm(clipped) <= np.linalg.norm(h) * (1 + 1e-6) + rounding
        along = float((clipped * h).sum()) / np.linalg.norm(h)
        assert along == pytest.approx(np.linalg.norm(clipped), rel=1e-5, abs=rounding)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1e18), st.floats(0, 1e18), st.floats(-1e3, 1e3))
def test_scales_lie_between_zero_and_one(task, transfer, progress):
    for clip in ("norm", "poster"):
        scale = float(clip_scale(torch.tensor(task), torch.tensor(transfer), clip, progress))
        assert 0 <= scale <= 1


@pytest.mark.parametrize("clip", ["norm", "poster", "global", "none"])
def test_the_epoch_may_be_a_tensor(clip):
    found = []
    for progress in (2.5, torch.tensor(2.5)):
        parameters, task, transfer = one_of_each(0)
        norms = multitask_backward(
            losses_of(parameters, task),
            losses_of(parameters, transfer),
            parameters,
            clip=clip,
            progress=progress,
        )
        found.append([*norms, *(parameter.grad for parameter in parameters)])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_scales_of_several_at_once_are_those_of_each():
    task, transfer = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 1.0, 0.0])
    for clip in ("norm", "poster"):
        together = clip_scale(task, transfer, clip, 1.0)
        apart = [clip_scale(g, h, clip, 1.0) for g, h in zip(task, transfer, strict=True)]
        assert together.tolist() == [float(scale) for scale in apart]


def test_a_generator_of_parameters():
    model = nn.Linear(3, 2)
    output = model(torch.rand(4, 3))
    multitask_backward(output.sum(), output.square().sum(), model.parameters())
    assert model.weight.grad is not None
    assert model.bias.grad is not None


@pytest.mark.parametrize("detached", [True, False])
def test_a_transfer_loss_that_reaches_nothing(detached):
    weight, elsewhere = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    transfer = elsewhere.sum().detach() if detached else elsewhere.sum()
    with pytest.raises(TrainingError, match=r"^transfer_loss: .*depends on none.*taps"):
        multitask_backward(weight.sum(), transfer, [weight])
    assert weight.grad is None


def test_a_task_loss_without_a_graph_leaves_the_transfer_alone():
    weight = nn.Parameter(torch.ones(3))
    multitask_backward(torch.tensor(2.0), 5 * weight.sum(), [weight])
    assert weight.grad.tolist() == [5, 5, 5]


@pytest.mark.parametrize("which", ["task_loss", "transfer_loss"])
def test_a_loss_that_is_no_scalar(which):
    weight = nn.Parameter(torch.ones(3))
    losses = {"task_loss": weight.sum(), "transfer_loss": weight.sum(), which: weight * 2}
    with pytest.raises(ArgumentError, match=rf"^{which}: .*shape \(3,\)"):
        multitask_backward(**losses, parameters=[weight])


@pytest.mark.parametrize("parameters", [[], [nn.Parameter(torch.ones(1), requires_grad=False)]])
def test_nothing_to_train(parameters):
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ArgumentError, match=r"^parameters: .*got none"):
        multitask_backward(weight.sum(), weight.sum(), parameters)


def test_an_unknown_clip():
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ArgumentError, match=r"^clip: .*did you mean 'norm'"):
        multitask_backward(weight.sum(), weight.sum(), [weight], clip="nrom")
