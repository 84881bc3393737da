import pytest
import torch

from svdistill.distillation import multitask_backward
from svdistill.losses import SVDLoss, dfv_distance
from svdistill_benchmarks.straightforward import (
    clipped_gradients,
    explicit_distance,
    straightforward_loss,
)


def feature_maps(seed: int) -> list[torch.Tensor]:
    """Three taps with few strong directions: no two values are close. [B, D, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for channels, side in ((8, 6), (12, 4), (24, 2)):
        rank = min(channels, side * side)
        left = torch.linalg.qr(torch.randn(3, side * side, rank, generator=generator))[0]
        right = torch.linalg.qr(torch.randn(3, channels, rank, generator=generator))[0]
        values = 4.0 * 0.6 ** torch.arange(rank)
        matrices = left * values @ right.mT
        maps.append(matrices.mT.unflatten(2, (side, side)))
    return maps


@pytest.mark.parametrize("k", [1, 2])
def test_loss_and_gradient_equal_ours(k: int) -> None:
    student = [tap.requires_grad_() for tap in feature_maps(0)]
    teacher = feature_maps(1)
    ours = SVDLoss(k)
    expected = ours(student, torch.empty(0), ours.extract(teacher, None))
    actual = straightforward_loss(student, teacher, k)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0.0)
    assert float(expected.detach()) > 1e-3
    for mine, theirs in zip(
        torch.autograd.grad(actual, student), torch.autograd.grad(expected, student), strict=True
    ):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-3


def test_distance_equals_ours() -> None:
    generator = torch.Generator().manual_seed(0)
    sides = [
        torch.nn.functional.normalize(torch.randn(3, channels, 2, generator=generator), dim=1)
        for channels in (8, 12, 8, 12)
    ]
    torch.testing.assert_close(explicit_distance(*sides), dfv_distance(*sides))


def test_clipped_gradients_equal_ours() -> None:
    torch.manual_seed(0)
    gradients = []
    for mine in (True, False):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        hidden = network[0](torch.randn(5, 4))
        task_loss = network[2](hidden.relu()).logsumexp(1).sum()
        transfer_loss = 10 * hidden.square().sum()
        parameters = list(network.parameters())
        if mine:
            clipped_gradients(task_loss, transfer_loss, parameters, progress=1.0)
        else:
            multitask_backward(task_loss, transfer_loss, parameters, clip="norm", progress=1.0)
        gradients.append([parameter.grad for parameter in parameters])
    torch.testing.assert_close(*gradients)


def test_a_dead_channel_leaves_the_gradient_finite() -> None:
    """Values of zero are equal, and torch's gradient of the SVD divides by their difference."""
    student = feature_maps(0)
    student[0][:, :3] = 0.0
    student = [tap.requires_grad_() for tap in student]
    straightforward_loss(student, feature_maps(1)).backward()
    assert all(tap.grad is not None and tap.grad.isfinite().all() for tap in student)
