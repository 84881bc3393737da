"""The watches by themselves; what the Distiller makes of them is tested with it."""

import pytest
import torch
from torch import nn

from recorded_work import recorded
from svdistill.common.errors import TrainingError
from svdistill.distillation import GradientNorms
from svdistill.distillation.checks import (
    LossInputs,
    TransferCounts,
    UntrainedWatch,
    require_finite_clipped,
    require_finite_transfer,
)


@pytest.mark.parametrize(
    ("steps", "zero"),
    [
        ([], False),
        ([(0.0, 1.0)], True),
        ([(1.0, 0.0)], True),
        ([(1e-13, 1.0)], True),
        ([(-1.0, 1.0)], False),
        ([(0.0, 1.0), (1.0, 0.0)], True),
        ([(0.0, 0.0), (1.0, 1.0), (0.0, 0.0)], False),
    ],
)
def test_zero_is_a_loss_or_a_gradient_that_was_zero_in_every_step(steps, zero):
    watch = TransferCounts()
    for loss, norm in steps:
        watch.see(torch.tensor(loss), GradientNorms(*map(torch.tensor, (1.0, norm, norm))))
    assert watch.end_epoch() == zero
    assert not watch.end_epoch()  # it has begun anew


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("adapters", [False, True])
def test_untrained_is_who_was_not_written_to_while_the_student_was(student, adapters):
    networks = nn.Linear(2, 2), nn.Linear(2, 2)
    watch = UntrainedWatch()
    for network in networks:
        network(torch.rand(1, 2)).sum().backward()
    watch.see(*networks)
    for network, trained in zip(networks, (student, adapters), strict=True):
        if trained:
            torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert watch.found() == (student and not adapters)
    assert not watch.found()  # told once


def test_a_loss_that_is_not_finite():
    require_finite_transfer(torch.tensor(1e30))
    with pytest.raises(TrainingError, match=r"^transfer_loss: expected a finite number, got nan"):
        require_finite_transfer(torch.tensor(float("nan")))


def test_a_loss_that_is_not_finite_says_where_it_comes_from():
    loss, feature = torch.tensor(torch.inf), torch.full((1, 2), torch.inf)
    inputs = LossInputs(loss, [feature], None, None)
    with pytest.raises(TrainingError, match=r"got inf, from the student's tap 'a': infinity in"):
        require_finite_transfer(loss, inputs, ["a"])


def test_a_clipped_gradient_that_is_not_finite():
    require_finite_clipped(torch.tensor(1e30))
    with pytest.raises(TrainingError, match=r"^transfer gradient: expected a finite norm .* nan"):
        require_finite_clipped(torch.tensor(torch.nan))


@pytest.mark.parametrize(
    ("loss", "clipped", "scaled", "message"),
    [
        (torch.nan, 1.0, False, "transfer_loss: expected a finite number"),
        (torch.inf, 1.0, True, "transfer_loss: expected a finite number"),
        (1.0, torch.nan, False, "transfer gradient: expected a finite norm"),
        (1.0, torch.nan, True, None),
    ],
)
def test_on_an_accelerator_the_counts_tell_at_the_end_of_an_epoch(loss, clipped, scaled, message):
    counts = TransferCounts()
    for number in (1.0, loss):
        norms = GradientNorms(*map(torch.tensor, (1.0, 1.0, clipped)))
        counts.see(torch.tensor(number), norms, scaled=scaled)
    with recorded():
        if message is not None:
            with pytest.raises(TrainingError, match=f"{message}.* in . of 2 steps"):
                counts.end_epoch()
        assert not counts.end_epoch()  # told once
