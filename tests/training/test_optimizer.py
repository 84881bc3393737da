import math

import pytest
import torch
from torch import nn

from svdistill.networks import build_network
from svdistill.training.optimizer import averaged, build_optimizer, build_schedule


def rates(name, total_steps, learning_rate=0.3, **options):
    """The learning rate with which each step is taken."""
    optimizer = build_optimizer("sgd", [nn.Parameter(torch.zeros(1))], learning_rate, 0.0)
    schedule = build_schedule(name, optimizer, learning_rate, total_steps, **options)
    taken = []
    for _ in range(total_steps):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return taken


@pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 7, 8, 200])
def test_seed_schedule(total_steps):
    """A tenth once half of the steps are done, a hundredth once three quarters are."""
    expected = []
    for done in range(total_steps):
        part = done / total_steps
        expected.append(0.3 * (0.01 if part >= 0.75 else 0.1 if part >= 0.5 else 1))
    assert rates("paper", total_steps) == pytest.approx(expected)


def test_seed_schedule_is_the_protocols():
    taken = rates("paper", 200 * 4, learning_rate=0.01)  # 200 epochs of 4 steps
    by_epoch = [taken[4 * epoch] for epoch in (0, 99, 100, 149, 150, 199)]
    assert by_epoch == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.parametrize("total_steps", [1, 2, 3, 10, 100])
def test_one_cycle(total_steps):
    """Half a cosine up from 1/25 to the highest, then half a cosine down to 1/250,000."""
    top = 0.3 * (total_steps + 1) - 1  # the step at which the highest rate would be taken
    expected = []
    for step in range(total_steps):
        if step <= top:
            low, high, part = 0.3 / 25, 0.3, step / top
        else:
            low, high, part = 0.3, 0.3 / 25e4, (step - top) / (total_steps - top)
        expected.append(high + (low - high) * (1 + math.cos(math.pi * part)) / 2)
    taken = rates("one_cycle", total_steps)
    if total_steps >= 10:
        assert taken == pytest.approx(expected)
    assert max(taken) <= 0.3
    assert all(rate > 0 for rate in taken)


def test_one_cycle_keeps_the_momentum():
    optimizer = build_optimizer("sgd", [nn.Parameter(torch.zeros(1))], 0.3, 0.0)
    schedule = build_schedule("one_cycle", optimizer, 0.3, 10)
    for _ in range(10):
        assert optimizer.param_groups[0]["momentum"] == 0.9
        optimizer.step()
        schedule.step()


def test_constant():
    assert rates("constant", 7) == [0.3] * 7


@pytest.mark.parametrize(("total_steps", "warmup"), [(1, 0), (10, 0), (10, 3), (100, 10), (4, 4)])
def test_cosine(total_steps, warmup):
    """Equal steps up to the highest rate, then half a cosine that would end at 0 one step later."""
    taken = rates("cosine", total_steps, warmup_steps=warmup)
    expected = [0.3 * (step + 1) / (warmup + 1) for step in range(warmup)]
    left = total_steps - warmup
    expected += [0.15 * (1 + math.cos(math.pi * step / left)) for step in range(left)]
    assert taken == pytest.approx(expected)
    assert all(rate > 0 for rate in taken)


@pytest.mark.parametrize("name", ["paper", "one_cycle", "cosine", "constant"])
def test_a_schedule_goes_on_from_its_state(name):
    def start():
        optimizer = build_optimizer("sgd", [nn.Parameter(torch.zeros(1))], 0.3, 0.0)
        return optimizer, build_schedule(name, optimizer, 0.3, 10)

    def advance(optimizer, schedule, steps):
        taken = []
        for _ in range(steps):
            taken.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return taken

    optimizer, schedule = start()
    first = advance(optimizer, schedule, 6)
    resumed = start()
    resumed[0].load_state_dict(optimizer.state_dict())
    resumed[1].load_state_dict(schedule.state_dict())
    assert first + advance(*resumed, 4) == rates(name, 10)


def updates(name, weight_decay, gradients):
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = build_optimizer(name, [parameter], 0.1, weight_decay)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return parameter.item()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_sgd_with_nesterov_momentum(weight_decay):
    weight, velocity, gradients = 2.0, None, [1.0, -0.5, 2.0]
    for gradient in gradients:
        whole = gradient + weight_decay * weight
        velocity = whole if velocity is None else 0.9 * velocity + whole
        weight -= 0.1 * (whole + 0.9 * velocity)
    assert updates("sgd", weight_decay, gradients) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_adamw(weight_decay):
    weight, mean, square, gradients = 2.0, 0.0, 0.0, [1.0, -0.5, 2.0]
    for step, gradient in enumerate(gradients, 1):
        weight *= 1 - 0.1 * weight_decay
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = math.sqrt(square / (1 - 0.999**step)) + 1e-8
        weight -= 0.1 * mean / (1 - 0.9**step) / corrected
    assert updates("adamw", weight_decay, gradients) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999])
def test_an_average_follows_weights_and_buffers(decay):
    """Against the recursion in numpy's float64, with a rising decay."""
    torch.manual_seed(0)
    network = build_network("mobilenet_student", 4, 0.05)
    average = averaged(network, decay)
    expected = None
    for number in range(5):
        network(torch.rand(4, 3, 16, 16))  # moves the statistics of batch norm
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(network)
        now = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
        kept = min(decay, (number + 1) / (number + 10))
        if expected is None:
            expected = now
        else:
            expected = {name: kept * old + (1 - kept) * now[name] for name, old in expected.items()}
    found = average.module.state_dict()
    for name, values in expected.items():
        if name.endswith("num_batches_tracked"):
            assert found[name] == 5
        else:
            torch.testing.assert_close(
                found[name].double(), torch.from_numpy(values), rtol=1e-5, atol=1e-6
            )
    assert not any(parameter.requires_grad for parameter in average.parameters())
