"""Tests of what is particular to the ResNeXts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.networks import build_network, profile_network
from svdistill.networks.paper import BranchedBlock, resnext


def branch_by_branch(block: BranchedBlock, images: Tensor, branches: int) -> Tensor:
    """Evaluate a block as the paper draws it: separate branches, concatenation, 1x1, shortcut."""
    enter, enter_norm, _, spatial, spatial_norm, _ = block.branches
    outputs = []
    for rows in torch.arange(enter.out_channels).chunk(branches):
        output = F.conv2d(images, enter.weight[rows])
        output = (output - enter_norm.running_mean[rows, None, None]) / (
            enter_norm.running_var[rows, None, None] + enter_norm.eps
        ).sqrt()
        output = F.conv2d(output.relu(), spatial.weight[rows], stride=block.stride, padding=1)
        output = (output - spatial_norm.running_mean[rows, None, None]) / (
            spatial_norm.running_var[rows, None, None] + spatial_norm.eps
        ).sqrt()
        outputs.append(output.relu())
    joined = block.join(torch.cat(outputs, dim=1))
    shortcut = torch.zeros_like(joined)
    step = block.stride
    mean = sum(images[:, :, i::step, j::step] for i in range(step) for j in range(step)) / step**2
    shortcut[:, : images.shape[1]] = mean
    return (joined + shortcut).relu()


@pytest.mark.parametrize("branches", [1, 2, 4])
@pytest.mark.parametrize(("channels_out", "stride"), [(6, 1), (12, 2)])
def test_grouped_convolutions_equal_separate_branches(branches, channels_out, stride):
    torch.manual_seed(0)
    block = BranchedBlock(6, channels_out, branches, branch_channels=5, stride=stride).double()
    images = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    block(images)  # moves the running statistics away from 0 and 1
    block.eval()
    torch.testing.assert_close(block(images), branch_by_branch(block, images, branches))


def test_branch_counts():
    teacher, student = (build_network(name, 10) for name in ("resnext_teacher", "resnext_student"))
    for path in ("stage1", "stage2", "stage3"):
        assert teacher.get_submodule(path).branches[3].groups == 4
        assert student.get_submodule(path).branches[3].groups == 2


def test_first_tap_is_the_stem():
    assert build_network("resnext_student", 10, 0.25).tap_paths == (
        "stem",
        "stage1",
        "stage2",
        "stage3",
    )


def test_eight_branches_as_drawn_count_as_stated():
    profile = profile_network(resnext(8, num_classes=100))
    assert f"{profile.flops / 1e6:.1f}" == "1081.5"
    assert f"{profile.parameters / 1e6:.2f}" == "1.28"
