"""The seed's ResNeXts: one block of parallel branches per stage and a parameter-free shortcut."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.networks.base import SeedNetwork, scale_channels

STEM_CHANNELS = 64
BRANCH_CHANNELS = 64
STAGE_CHANNELS = (64, 128, 256)
STAGE_STRIDES = (1, 2, 2)
STAGE_PATHS = ("stage1", "stage2", "stage3")
TAP_PATHS = ("stem", *STAGE_PATHS)


def resnext_teacher(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the teacher: four branches per block."""
    return resnext(4, num_classes, width)


def resnext_student(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the student: two branches per block."""
    return resnext(2, num_classes, width)


def resnext(branches: int, num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build stem, three stages of one block with `branches` branches, global pooling, classifier.

    One block per stage, with the stride at the 3x3 convolution, is the structure that counts to
    the seed's parameters: 0.34M for two branches, 0.65M for four, 1.28M for eight.
    """
    channels = scale_channels(STEM_CHANNELS, width)
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
    }
    branch_channels = scale_channels(BRANCH_CHANNELS, width)
    for path, base, stride in zip(STAGE_PATHS, STAGE_CHANNELS, STAGE_STRIDES, strict=True):
        out_channels = scale_channels(base, width)
        parts[path] = BranchedBlock(channels, out_channels, branches, branch_channels, stride)
        channels = out_channels
    parts["head"] = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return SeedNetwork(parts, TAP_PATHS)


class BranchedBlock(nn.Module):
    """Parallel branches, joined by a 1x1 convolution and added to a parameter-free shortcut.

    Each branch is a 1x1 and a 3x3 convolution. All branches read the same input and their outputs
    are concatenated, so the 1x1 convolutions are one dense convolution and the 3x3 ones a grouped
    convolution with one group per branch: the same function in fewer, larger operations.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least `in_channels`.
        branches: number of parallel branches.
        branch_channels: channels within a branch.
        stride: stride of the 3x3 convolutions and of the shortcut's average pooling.
    """

    def __init__(
        self, in_channels: int, out_channels: int, branches: int, branch_channels: int, stride: int
    ) -> None:
        super().__init__()
        inner = branches * branch_channels
        self.branches = nn.Sequential(
            nn.Conv2d(in_channels, inner, kernel_size=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(
                inner, inner, kernel_size=3, stride=stride, padding=1, groups=branches, bias=False
            ),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
        )
        self.join = nn.Sequential(
            nn.Conv2d(inner, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
        # Rounding odd sides up, as the strided convolution does.
        shortcut = F.avg_pool2d(features, self.stride, ceil_mode=True)
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.join(self.branches(features)) + shortcut)
