"""The paper's networks: VGG, MobileNet and ResNeXt, each as teacher and student.

A network consists of a stem (not in VGG), stages, and a head. The outputs of the stages, in ResNeXt
of the stem too, are its four taps: the feature maps that distillation compares. Where the paper's
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

    The parts are direct child modules, so that a path such as ``"stage2"`` names a whole stage. No
    activation works in place, since it would overwrite recorded feature maps.

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
    """Multiply a channel count by `width`, rounded to a multiple of four, at least four.

    Every channel count in the paper is a multiple of four, so width 1 changes none of them.
    """
    return max(4, 4 * round(channels * width / 4))


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Build a convolution without bias, a batch normalisation and a ReLU."""
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _pooled_head(channels: int, num_classes: int) -> nn.Module:
    """Build the head of MobileNet and ResNeXt: global average pooling and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


# VGG

VGG_CHANNELS: Final = (64, 128, 256, 512)
HIDDEN_FEATURES: Final = 1024
HEAD_SIDE: Final = 2  # side of the last feature map where images are 32 x 32


def _strided_vgg(num_classes: int, width: float) -> PaperNetwork:
    """Build a VGG with one convolution of stride 2 per stage, instead of max-pooling."""
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
    """Build a VGG whose stages are `depths[i]` 3x3 convolutions with ReLU and a 2x2 max-pooling."""
    parts: dict[str, nn.Module] = {}
    for (path, in_channels, out_channels), depth in zip(_vgg_stages(width), depths, strict=True):
        layers: list[nn.Module] = []
        for index in range(depth):
            source = in_channels if index == 0 else out_channels
            layers += [nn.Conv2d(source, out_channels, kernel_size=3, padding=1), nn.ReLU()]
        # With ceil_mode odd sides are rounded up, as by a stride-2 convolution. So the feature maps
        # of pooled and strided networks have equal sizes, and images may be below 16 x 16.
        parts[path] = nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, ceil_mode=True))
    parts["head"] = _hidden_head(hidden_layers, num_classes, width)
    return PaperNetwork(parts, FOUR_STAGES)


def _vgg_stages(width: float) -> list[tuple[str, int, int]]:
    """List each stage's path, input channels and output channels."""
    outputs = [scale_channels(channels, width) for channels in VGG_CHANNELS]
    return list(zip(FOUR_STAGES, [3, *outputs], outputs, strict=False))


def _hidden_head(hidden_layers: int, num_classes: int, width: float) -> nn.Module:
    """Build the head of VGG: fully connected layers, with ReLU and dropout after hidden ones."""
    hidden = scale_channels(HIDDEN_FEATURES, width)
    # A fully connected layer takes feature maps of one size only. This pooling brings those of
    # images of any size to it; for 32 x 32 images it is the identity.
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
    """Build a MobileNet whose stages are `depths[i]` blocks, the first one with the stride."""
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
    """Build a depthwise 3x3 convolution and a pointwise 1x1 convolution."""
    return nn.Sequential(
        *_convolution(in_channels, in_channels, 3, stride, groups=in_channels),
        *_convolution(in_channels, out_channels, 1),
    )


# ResNeXt

RESNEXT_STEM: Final = 64
BRANCH_CHANNELS: Final = 64
RESNEXT_STAGES: Final = (("stage1", 64, 1), ("stage2", 128, 2), ("stage3", 256, 2))


def resnext(branches: int, num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build a ResNeXt of a stem, three stages of one block with `branches` branches, and a head.

    With one block per stage, and the stride at the 3x3 convolution, the number of parameters is
    that of the paper: 0.34M for two branches, 0.65M for four, 1.28M for eight.
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

    Each branch is a 1x1 and a 3x3 convolution. Since all branches read the same input and their
    outputs are concatenated, the 1x1 convolutions are computed as one dense convolution, and the
    3x3 ones as one grouped convolution with a group per branch: the same function in fewer, larger
    operations. `stride` is that of the 3x3 convolutions and of the shortcut's average pooling.
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
        """Map [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride], rounded up."""
        # With ceil_mode odd sides are rounded up, as by the strided convolution.
        shortcut = F.avg_pool2d(features, self.stride, ceil_mode=True)
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.join(self.branches(features)) + shortcut)


# Functions that build a network from the number of classes and the width, by name.
PAPER_NETWORKS: Final[dict[str, Callable[[int, float], PaperNetwork]]] = {
    "vgg_teacher": partial(_pooled_vgg, (2, 2, 3, 3), 2),
    "vgg_student": partial(_pooled_vgg, (1, 1, 1, 1), 1),
    "vgg_stride_student": _strided_vgg,
    "mobilenet_teacher": partial(_mobilenet, (1, 2, 2, 2)),
    "mobilenet_student": partial(_mobilenet, (1, 1, 1, 1)),
    "resnext_teacher": partial(resnext, 4),
    "resnext_student": partial(resnext, 2),
}
