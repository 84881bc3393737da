"""The seed's MobileNets: depthwise-separable blocks with batch norm after every convolution."""

from __future__ import annotations

from torch import nn

from svdistill.networks.base import SeedNetwork, scale_channels

STEM_CHANNELS = 64
STAGE_CHANNELS = (128, 256, 512, 1024)
STAGE_STRIDES = (1, 2, 2, 2)
TAP_PATHS = ("stage1", "stage2", "stage3", "stage4")


def mobilenet_teacher(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the teacher: one block in the first stage, two in each of the others."""
    return _mobilenet((1, 2, 2, 2), num_classes, width)


def mobilenet_student(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the student: one block per stage."""
    return _mobilenet((1, 1, 1, 1), num_classes, width)


def _mobilenet(depths: tuple[int, ...], num_classes: int, width: float) -> SeedNetwork:
    """Build stem, stages of `depths` blocks (the first one strided), global pooling, classifier."""
    channels = scale_channels(STEM_CHANNELS, width)
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
    }
    for path, base, stride, depth in zip(
        TAP_PATHS, STAGE_CHANNELS, STAGE_STRIDES, depths, strict=True
    ):
        out_channels = scale_channels(base, width)
        blocks = [_separable_block(channels, out_channels, stride)]
        blocks += [_separable_block(out_channels, out_channels, 1) for _ in range(depth - 1)]
        parts[path] = nn.Sequential(*blocks)
        channels = out_channels
    parts["head"] = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return SeedNetwork(parts, TAP_PATHS)


def _separable_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build a 3x3 convolution within each channel, then a 1x1 convolution across channels."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            groups=in_channels,
            bias=False,
        ),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
