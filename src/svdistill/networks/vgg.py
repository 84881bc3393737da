"""The seed's VGG networks: no batch norm, and dropout after every hidden fully connected layer."""

from __future__ import annotations

from torch import nn

from svdistill.networks.base import SeedNetwork, scale_channels

STAGE_CHANNELS = (64, 128, 256, 512)
HIDDEN_FEATURES = 1024
HEAD_SIDE = 2  # side of the last feature map where images are 32 x 32
TAP_PATHS = ("stage1", "stage2", "stage3", "stage4")


def vgg_teacher(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the teacher: 2, 2, 3 and 3 convolutions with max-pooling, two hidden layers."""
    stages = _pooled_stages((2, 2, 3, 3), width)
    return SeedNetwork({**stages, "head": _head(2, num_classes, width)}, TAP_PATHS)


def vgg_student(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the student: one convolution and max-pooling per stage, one hidden layer."""
    stages = _pooled_stages((1, 1, 1, 1), width)
    return SeedNetwork({**stages, "head": _head(1, num_classes, width)}, TAP_PATHS)


def vgg_stride_student(num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build the student whose convolutions have stride 2 where `vgg_student` pools."""
    stages: dict[str, nn.Module] = {}
    for path, in_channels, out_channels in _stage_plan(width):
        stages[path] = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1), nn.ReLU()
        )
    return SeedNetwork({**stages, "head": _head(1, num_classes, width)}, TAP_PATHS)


def _stage_plan(width: float) -> list[tuple[str, int, int]]:
    """List each stage's path, input channels and output channels."""
    outputs = [scale_channels(channels, width) for channels in STAGE_CHANNELS]
    return list(zip(TAP_PATHS, [3, *outputs], outputs, strict=False))


def _pooled_stages(depths: tuple[int, ...], width: float) -> dict[str, nn.Module]:
    """Build stages of `depths` 3x3 convolutions with ReLU, each stage closed by 2x2 max-pooling."""
    stages: dict[str, nn.Module] = {}
    for (path, in_channels, out_channels), depth in zip(_stage_plan(width), depths, strict=True):
        layers: list[nn.Module] = []
        for index in range(depth):
            source = in_channels if index == 0 else out_channels
            layers += [nn.Conv2d(source, out_channels, kernel_size=3, padding=1), nn.ReLU()]
        # Rounding odd sides up, as a stride-2 convolution does, gives the pooled and the strided
        # networks taps of equal size for every image, and lets images be smaller than 16 x 16.
        stages[path] = nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, ceil_mode=True))
    return stages


def _head(hidden_layers: int, num_classes: int, width: float) -> nn.Module:
    """Build the fully connected layers, with ReLU and dropout after every hidden one."""
    hidden = scale_channels(HIDDEN_FEATURES, width)
    # A fully connected layer needs one input size. The pooling changes nothing for 32 x 32 images
    # and brings the last feature map of all others to the size that the seed's layer was made for.
    # So 64 x 64 images, for which the seed prints no sizes, cost four times the convolutions and
    # not one parameter more; a layer for their 4 x 4 map would have four times the weights.
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(HEAD_SIDE), nn.Flatten()]
    features = scale_channels(STAGE_CHANNELS[-1], width) * HEAD_SIDE**2
    for _ in range(hidden_layers):
        layers += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5)]
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, num_classes))
