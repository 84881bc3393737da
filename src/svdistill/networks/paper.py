"""The paper's networks: VGG, MobileNet and ResNeXt, each as teacher and student.

A network is a stem (not in VGG), stages with a tap behind each, and a head. Where the paper's
drawing and its table disagree, the table's parameter count decides; see `profile.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

FOUR_STAGES: Final = ("stage1", "stage2", "stage3", "stage4")


class PaperNetwork(nn.Module):
    """A classifier whose named parts run one after the other.

    The parts are direct children, so that a tap such as ``"stage2"`` is the output of a whole
    stage. No activation works in place, so that recorded features are not overwritten.

    Args:
        parts: the parts by name, in the order in which they run; the last one gives the logits.
        tap_paths: names of the parts whose outputs distillation compares, front to back.
    """

    def __init__(self, parts: dict[str, nn.Module], tap_paths: tuple[str, ...]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.tap_paths = tap_paths
        self.apply(_he_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], giving logits [B, num_classes]."""
        features = images
        for part in self.children():
            features = part(features)
        return features


def _he_initialise(module: nn.Module) -> None:
    """Draw weights from a normal distribution of variance 2 / fan-in and zero the biases."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def scale_channels(channels: int, width: float) -> int:
    """Multiply a channel count by the width, to the nearest multiple of four and at least four.

    Every count in the paper is a multiple of four, so width 1 changes none.
    """
    return max(4, 4 * round(channels * width / 4))


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Build a convolution without bias, its batch normalisation and its ReLU."""
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _pooled_head(channels: int, num_classes: int) -> nn.Module:
    """Build global average pooling and the classifier of MobileNet and ResNeXt."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


# VGG

VGG_CHANNELS: Final = (64, 128, 256, 512)
HIDDEN_FEATURES: Final = 1024
HEAD_SIDE: Final = 2  # side of the last feature map where images are 32 x 32


def _strided_vgg(num_classes: int, width: float) -> PaperNetwork:
    """Build one convolution of stride 2 per stage, where `_pooled_vgg` pools."""
    parts: dict[str, nn.Module] = {}
    for path, in_channels, out_channels in _vgg_stages(width):
        parts[path] = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1), nn.ReLU()
        )
    parts["head"] = _hidden_head(1, num_classes, width)
    return PaperNetwork(parts, FOUR_STAGES)


def _pooled_vgg(
    depths: Sequence[int], hidden_layers: int, num_classes: int, width: float
) -> PaperNetwork:
    """Build stages of `depths` 3x3 convolutions with ReLU, each closed by 2x2 max-pooling."""
    parts: dict[str, nn.Module] = {}
    for (path, in_channels, out_channels), depth in zip(_vgg_stages(width), depths, strict=True):
        layers: list[nn.Module] = []
        for index in range(depth):
            source = in_channels if index == 0 else out_channels
            layers += [nn.Conv2d(source, out_channels, kernel_size=3, padding=1), nn.ReLU()]
        # Rounding odd sides up, as a stride-2 convolution does, gives the pooled and the strided
        # networks taps of equal size for every image, and lets images be smaller than 16 x 16.
        parts[path] = nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, ceil_mode=True))
    parts["head"] = _hidden_head(hidden_layers, num_classes, width)
    return PaperNetwork(parts, FOUR_STAGES)


def _vgg_stages(width: float) -> list[tuple[str, int, int]]:
    """List each stage's path, input channels and output channels."""
    outputs = [scale_channels(channels, width) for channels in VGG_CHANNELS]
    return list(zip(FOUR_STAGES, [3, *outputs], outputs, strict=False))


def _hidden_head(hidden_layers: int, num_classes: int, width: float) -> nn.Module:
    """Build the fully connected layers, with ReLU and dropout after every hidden one."""
    hidden = scale_channels(HIDDEN_FEATURES, width)
    # The pooling is the identity for 32 x 32 images, and brings the last map of all others to the
    # one size that a fully connected layer takes, without further parameters.
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(HEAD_SIDE), nn.Flatten()]
    features = scale_channels(VGG_CHANNELS[-1], width) * HEAD_SIDE**2
    for _ in range(hidden_layers):
        layers += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5)]
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


# MobileNet

MOBILENET_STEM: Final = 64
MOBILENET_STAGES: Final = ((128, 1), (256, 2), (512, 2), (1024, 2))  # channels, stride


def _mobilenet(depths: Sequence[int], num_classes: int, width: float) -> PaperNetwork:
    """Build a stem, stages of `depths` blocks whose first is strided, and the pooled head."""
    channels = scale_channels(MOBILENET_STEM, width)
    parts: dict[str, nn.Module] = {"stem": nn.Sequential(*_convolution(3, channels, 3))}
    for path, (base, stride), depth in zip(FOUR_STAGES, MOBILENET_STAGES, depths, strict=True):
        out_channels = scale_channels(base, width)
        blocks = [separable_block(channels, out_channels, stride)]
        blocks += [separable_block(out_channels, out_channels, 1) for _ in range(depth - 1)]
        parts[path] = nn.Sequential(*blocks)
        channels = out_channels
    parts["head"] = _pooled_head(channels, num_classes)
    return PaperNetwork(parts, FOUR_STAGES)


def separable_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build a 3x3 convolution within each channel, then a 1x1 convolution across channels."""
    return nn.Sequential(
        *_convolution(in_channels, in_channels, 3, stride, groups=in_channels),
        *_convolution(in_channels, out_channels, 1),
    )


# ResNeXt

RESNEXT_STEM: Final = 64
BRANCH_CHANNELS: Final = 64
RESNEXT_STAGES: Final = (("stage1", 64, 1), ("stage2", 128, 2), ("stage3", 256, 2))


def resnext(branches: int, num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build a stem, three stages of one block with `branches` branches, and the pooled head.

    One block per stage, with the stride at the 3x3 convolution, is the structure that counts to
    the paper's parameters: 0.34M for two branches, 0.65M for four, 1.28M for eight.
    """
    channels = scale_channels(RESNEXT_STEM, width)
    parts: dict[str, nn.Module] = {"stem": nn.Sequential(*_convolution(3, channels, 3))}
    branch_channels = scale_channels(BRANCH_CHANNELS, width)
    for path, base, stride in RESNEXT_STAGES:
        out_channels = scale_channels(base, width)
        parts[path] = BranchedBlock(channels, out_channels, branches, branch_channels, stride)
        channels = out_channels
    taps = tuple(parts)
    parts["head"] = _pooled_head(channels, num_classes)
    return PaperNetwork(parts, taps)


class BranchedBlock(nn.Module):
    """Parallel branches, joined by a 1x1 convolution and added to a parameter-free shortcut.

    Each branch is a 1x1 and a 3x3 convolution. All branches read the same input and their outputs
    are concatenated, so the 1x1 convolutions are one dense convolution and the 3x3 ones a grouped
    convolution with one group per branch: the same function in fewer, larger operations. The
    stride is that of the 3x3 convolutions and of the shortcut's average pooling.
    """

    def __init__(
        self, in_channels: int, out_channels: int, branches: int, branch_channels: int, stride: int
    ) -> None:
        super().__init__()
        inner = branches * branch_channels
        self.branches = nn.Sequential(
            *_convolution(in_channels, inner, 1), *_convolution(inner, inner, 3, stride, branches)
        )
        self.join = nn.Sequential(*_convolution(inner, out_channels, 1)[:2])
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
        # Rounding odd sides up, as the strided convolution does.
        shortcut = F.avg_pool2d(features, self.stride, ceil_mode=True)
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.join(self.branches(features)) + shortcut)


# By name; each takes the number of classes and the width.
PAPER_NETWORKS: Final[dict[str, Callable[[int, float], PaperNetwork]]] = {
    "vgg_teacher": partial(_pooled_vgg, (2, 2, 3, 3), 2),
    "vgg_student": partial(_pooled_vgg, (1, 1, 1, 1), 1),
    "vgg_stride_student": _strided_vgg,
    "mobilenet_teacher": partial(_mobilenet, (1, 2, 2, 2)),
    "mobilenet_student": partial(_mobilenet, (1, 1, 1, 1)),
    "resnext_teacher": partial(resnext, 4),
    "resnext_student": partial(resnext, 2),
}
