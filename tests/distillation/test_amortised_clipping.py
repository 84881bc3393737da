import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError, TrainingError
from svdistill.distillation import AmortisedBackward, multitask_backward


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def losses(model: nn.Module, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A task loss through everything, and a large transfer loss through the first layer."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    hidden = model[1](model[0](inputs))
    return model[2](hidden).square().mean(), 30 * (hidden - 0.3).square().sum()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


def by_hand(model: nn.Module, step: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Both gradients, zeros where a loss does not reach."""
    parameters = list(model.parameters())
    found = []
    for loss in losses(model, step):
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        found.append(
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, grads, strict=True)
            ]
        )
    return found[0], found[1]


def scale_by_hand(task: list, transfer: list, progress: float) -> float:
    """From the equation, over the first layer alone: the transfer reaches nothing else."""
    g = sum(float(x.square().sum()) for x in task[:2]) ** 0.5
    h = sum(float(x.square().sum()) for x in transfer[:2]) ** 0.5
    return min(1.0, float(torch.sigmoid(torch.tensor(progress, dtype=torch.float64))) * g / h)


@pytest.mark.parametrize("progress", [0.0, 2.0])
def test_interval_one_is_the_two_gradient_form_with_one_scale(progress: float) -> None:
    model, backward = network(), AmortisedBackward(interval=1)
    for step in range(4):
        backward(*losses(model, step), model.parameters(), progress=progress)
        actual = gradients(model)
        task, transfer = by_hand(model, step)
        scale = scale_by_hand(task, transfer, progress)
        assert scale < 1
        for a, g, h in zip(actual, task, transfer, strict=True):
            torch.testing.assert_close(a, g + scale * h)


def test_global_clip_of_two_gradients_agrees_with_interval_one() -> None:
    model = network()
    AmortisedBackward(interval=1)(*losses(model, 0), model.parameters(), progress=1)
    amortised = gradients(model)
    multitask_backward(*losses(model, 0), model.parameters(), clip="global", progress=1)
    for a, b in zip(amortised, gradients(model), strict=True):
        assert torch.equal(a, b)


def test_the_scale_is_carried_between_measurements() -> None:
    model, backward = network(), AmortisedBackward(interval=3)
    scales = []
    for step in range(7):
        backward(*losses(model, step), model.parameters(), progress=0)
        actual = gradients(model)
        task, transfer = by_hand(model, step)
        if step % 3 == 0:
            scales.append(scale_by_hand(task, transfer, 0))
        for a, g, h in zip(actual, task, transfer, strict=True):
            torch.testing.assert_close(a, g + scales[-1] * h)
    assert len(set(scales)) == 3


def test_without_clip_every_step_is_the_plain_sum() -> None:
    model, backward = network(), AmortisedBackward(interval=2, clip="none")
    for step in range(4):
        backward(*losses(model, step), model.parameters(), progress=0)
        task, transfer = by_hand(model, step)
        for a, g, h in zip(gradients(model), task, transfer, strict=True):
            torch.testing.assert_close(a, g + h)


def test_a_new_epoch_is_measured_at_once() -> None:
    model, backward = network(), AmortisedBackward(interval=100)
    backward(*losses(model, 0), model.parameters(), progress=0.9)
    backward(*losses(model, 1), model.parameters(), progress=1.0)
    gradients(model)
    backward(*losses(model, 2), model.parameters(), progress=1.5)
    actual = gradients(model)
    carried = scale_by_hand(*by_hand(model, 1), 1.0)
    task, transfer = by_hand(model, 2)
    torch.testing.assert_close(actual[0], task[0] + carried * transfer[0])


def test_norms_are_those_last_measured() -> None:
    model, backward = network(), AmortisedBackward(interval=2)
    first = backward(*losses(model, 0), model.parameters())
    between = backward(*losses(model, 1), model.parameters())
    again = backward(*losses(model, 2), model.parameters())
    assert between == first
    assert float(again.transfer) != float(first.transfer)


def test_gradients_accumulate_in_every_kind_of_step() -> None:
    model, backward = network(), AmortisedBackward(interval=5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    backward(*losses(model, 0), model.parameters())  # takes both gradients
    backward(*losses(model, 1), model.parameters())  # takes one
    actual = gradients(model)
    first, second = by_hand(model, 0), by_hand(model, 1)
    scale = scale_by_hand(*first, 0.0)
    for a, g1, h1, g2, h2 in zip(actual, *first, *second, strict=True):
        torch.testing.assert_close(a, 1 + g1 + scale * h1 + g2 + scale * h2)


def test_a_task_without_gradient_leaves_the_transfer_whole() -> None:
    """As in the first stage of two."""
    model, backward = network(), AmortisedBackward(interval=2)
    for step in range(4):
        task_loss, transfer_loss = losses(model, step)
        backward(task_loss.detach(), transfer_loss, model.parameters())
        reached = [p.grad for p in model[0].parameters()]
        _, transfer = by_hand(model, step)
        for actual, h in zip(reached, transfer[:2], strict=True):
            torch.testing.assert_close(actual, h)
        assert all(p.grad is None for p in model[2].parameters())
        model.zero_grad()


def test_zero_transfer_is_finite() -> None:
    model, backward = network(), AmortisedBackward(interval=2)
    for step in range(3):
        task_loss, transfer_loss = losses(model, step)
        backward(task_loss, 0 * transfer_loss, model.parameters())
        task, _ = by_hand(model, step)
        for actual, g in zip(gradients(model), task, strict=True):
            torch.testing.assert_close(actual, g)


def test_only_the_parameters_given_get_gradients() -> None:
    model, backward = network(), AmortisedBackward(interval=2)
    for step in range(2):
        backward(*losses(model, step), model[0].parameters())
        assert all(p.grad is None for p in model[2].parameters())


def test_told_its_plan_it_does_what_it_does_by_itself() -> None:
    """The epoch as a tensor, as in a recorded step, which must not look at it."""
    model, told, alone = network(), AmortisedBackward(interval=3), AmortisedBackward(interval=3)
    plans = []
    for step in range(10):
        epoch = step // 5
        plans.append(told.plan(epoch))
        progress = torch.tensor(float(epoch))
        norms = told(*losses(model, step), model.parameters(), progress=progress, measure=plans[-1])
        actual = gradients(model)
        expected = alone(*losses(model, step), model.parameters(), progress=epoch)
        torch.testing.assert_close(actual, gradients(model), rtol=1e-6, atol=0)
        torch.testing.assert_close(tuple(norms), tuple(expected), rtol=1e-6, atol=0)
    assert plans == [True, False, False, True, False] * 2


def test_the_scale_stays_where_a_recorded_step_reads_it() -> None:
    model, backward = network(), AmortisedBackward(interval=2)
    places = set()
    for step in range(3):
        backward(*losses(model, step), model.parameters())
        assert backward._measured is not None
        places.add(backward._measured.data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("interval", [0, -1, 1.5, True])
def test_a_bad_interval(interval: object) -> None:
    with pytest.raises(ArgumentError, match="clip_interval"):
        AmortisedBackward(interval)


def test_a_transfer_that_reaches_nothing() -> None:
    model = network()
    with pytest.raises(TrainingError, match="reaches"):
        AmortisedBackward()(losses(model, 0)[0], torch.zeros(()), model.parameters())


@pytest.mark.parametrize(("clip", "carried"), [("global", 0.0), ("none", 1.0)])
@pytest.mark.parametrize("first", [3e38, float("nan")])
def test_a_gradient_out_of_range_is_not_carried(clip: str, carried: float, first: float) -> None:
    """As under fp16's scaler, which skips the step in which both were measured, and no other."""
    weight = nn.Parameter(torch.ones(4))
    backward = AmortisedBackward(interval=3, clip=clip)
    backward(weight.sum(), first * weight.sum(), [weight])
    for _ in range(2):
        weight.grad = None
        backward(weight.sum(), 0.5 * weight.sum(), [weight])
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, torch.full((4,), 1.0 + carried * 0.5))
