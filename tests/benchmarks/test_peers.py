import pytest
import torch
import torch.nn.functional as F

from svdistill.losses import SoftTargetLoss
from svdistill.taps import Recording
from svdistill_benchmarks.peers import torchdistill_peers

pytest.importorskip("torchdistill", reason="the extra `peers` is not installed")


def recording(seed: int) -> Recording:
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(
        torch.rand(4, channels, side, side, generator=generator).requires_grad_()
        for channels, side in ((4, 8), (8, 4), (16, 2))
    )
    return Recording(torch.randn(4, 10, generator=generator).requires_grad_(), maps)


def test_soft_target_is_the_same_as_ours() -> None:
    student, teacher, labels = recording(0), recording(1), torch.tensor([1, 2, 3, 4])
    ours = SoftTargetLoss(4.0)
    expected = 0.1 * F.cross_entropy(student.output, labels) + 0.9 * ours(
        [], student.output, ours.extract([], teacher.output)
    )
    peer = torchdistill_peers(3)[0]
    assert peer.name.endswith("soft target")
    torch.testing.assert_close(peer.loss(student, teacher, labels), expected)


@pytest.mark.parametrize("place", [1, 2])
def test_the_others_reach_every_tap(place: int) -> None:
    student, teacher, labels = recording(0), recording(1), torch.tensor([1, 2, 3, 4])
    torchdistill_peers(3)[place].loss(student, teacher, labels).backward()
    assert all(tap.grad is not None and tap.grad.norm() > 0 for tap in student.features)


@pytest.mark.parametrize("place", [1, 2])
def test_equal_maps_leave_the_cross_entropy(place: int) -> None:
    student, labels = recording(0), torch.tensor([1, 2, 3, 4])
    loss = torchdistill_peers(3)[place].loss(student, student, labels)
    torch.testing.assert_close(loss, F.cross_entropy(student.output, labels))
