"""The paper's networks: VGG, MobileNet and ResNeXt, as teacher and student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWING: Final = (
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
)


class PaperNetwork(nn.Module):
    """A classifier whose named parts run one after the other.

    The parts are direct children, so that a tap such as ``"stage2"`` is a readable path and the
    output of a whole stage. No activation works in place: what a tap recorded stays as it was.

    Args:
        parts: the parts in the order in which they run, by name; the last one gives the logits.
        tap_paths: names of the parts whose outputs distillation compares, front to back.

    Example:
        >>> import torch
        >>> from svdistill.networks import build_network
        >>> network = build_network("vgg_student", num_classes=10, width=0.25)
        >>> network.tap_paths
        ('stage1', 'stage2', 'stage3', 'stage4')
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
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

    Every count in the paper is a multiple of four, so width 1 leaves all of them as they are.

    Example:
        >>> scale_channels(64, 0.5), scale_channels(64, 1.0), scale_channels(64, 0.01)
        (32, 64, 4)
    """
    return max(4, 4 * round(channels * width / 4))


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build networks on torch's ``meta`` device, whose weights have a shape and no values.

    Example:
        >>> with on_meta_device():
        ...     layer = nn.Linear(2, 3)
        >>> layer.weight.device.type
        'meta'
    """
    with torch.device("meta"), SkipInitialisation():
        yield


class SkipInitialisation(TorchFunctionMode):
    """Builds networks whose weights are not drawn: they hold whatever is in memory.

    On the ``meta`` device torch would import its compiler to draw none, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Leave a tensor as it is where values would be drawn."""
        kwargs = kwargs or {}
        if func in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


VGG_CHANNELS = (64, 128, 256, 512)

HIDDEN_FEATURES = 1024

HEAD_SIDE = 2  # side of the last feature map where images are 32 x 32

VGG_TAPS = ("stage1", "stage2", "stage3", "stage4")


def vgg_teacher(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the teacher: 2, 2, 3 and 3 convolutions with max-pooling, two hidden layers."""
    stages = _pooled_stages((2, 2, 3, 3), width)
    return PaperNetwork({**stages, "head": _head(2, num_classes, width)}, VGG_TAPS)


def vgg_student(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the student: one convolution and max-pooling per stage, one hidden layer."""
    stages = _pooled_stages((1, 1, 1, 1), width)
    return PaperNetwork({**stages, "head": _head(1, num_classes, width)}, VGG_TAPS)


def vgg_stride_student(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the student whose convolutions have stride 2 where `vgg_student` pools."""
    stages: dict[str, nn.Module] = {}
    for path, in_channels, out_channels in _stage_plan(width):
        stages[path] = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1), nn.ReLU()
        )
    return PaperNetwork({**stages, "head": _head(1, num_classes, width)}, VGG_TAPS)


def _stage_plan(width: float) -> list[tuple[str, int, int]]:
    """List each stage's path, input channels and output channels."""
    outputs = [scale_channels(channels, width) for channels in VGG_CHANNELS]
    return list(zip(VGG_TAPS, [3, *outputs], outputs, strict=False))


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
    # and brings the last feature map of all others to the size that the paper's layer was made for.
    # So 64 x 64 images, for which the paper prints no sizes, cost four times the convolutions and
    # not one parameter more; a layer for their 4 x 4 map would have four times the weights.
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(HEAD_SIDE), nn.Flatten()]
    features = scale_channels(VGG_CHANNELS[-1], width) * HEAD_SIDE**2
    for _ in range(hidden_layers):
        layers += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5)]
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


MOBILENET_STEM = 64

MOBILENET_CHANNELS = (128, 256, 512, 1024)

MOBILENET_STRIDES = (1, 2, 2, 2)

MOBILENET_TAPS = ("stage1", "stage2", "stage3", "stage4")


def mobilenet_teacher(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the teacher: one block in the first stage, two in each of the others."""
    return _mobilenet((1, 2, 2, 2), num_classes, width)


def mobilenet_student(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the student: one block per stage."""
    return _mobilenet((1, 1, 1, 1), num_classes, width)


def _mobilenet(depths: tuple[int, ...], num_classes: int, width: float) -> PaperNetwork:
    """Build stem, stages of `depths` blocks (the first one strided), global pooling, classifier."""
    channels = scale_channels(MOBILENET_STEM, width)
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
    }
    for path, base, stride, depth in zip(
        MOBILENET_TAPS, MOBILENET_CHANNELS, MOBILENET_STRIDES, depths, strict=True
    ):
        out_channels = scale_channels(base, width)
        blocks = [_separable_block(channels, out_channels, stride)]
        blocks += [_separable_block(out_channels, out_channels, 1) for _ in range(depth - 1)]
        parts[path] = nn.Sequential(*blocks)
        channels = out_channels
    parts["head"] = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return PaperNetwork(parts, MOBILENET_TAPS)


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


RESNEXT_STEM = 64

BRANCH_CHANNELS = 64

RESNEXT_CHANNELS = (64, 128, 256)

RESNEXT_STRIDES = (1, 2, 2)

STAGE_PATHS = ("stage1", "stage2", "stage3")

RESNEXT_TAPS = ("stem", *STAGE_PATHS)


def resnext_teacher(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the teacher: four branches per block."""
    return resnext(4, num_classes, width)


def resnext_student(num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build the student: two branches per block."""
    return resnext(2, num_classes, width)


def resnext(branches: int, num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build stem, three stages of one block with `branches` branches, global pooling, classifier.

    One block per stage, with the stride at the 3x3 convolution, is the structure that counts to
    the paper's parameters: 0.34M for two branches, 0.65M for four, 1.28M for eight.
    """
    channels = scale_channels(RESNEXT_STEM, width)
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
    }
    branch_channels = scale_channels(BRANCH_CHANNELS, width)
    for path, base, stride in zip(STAGE_PATHS, RESNEXT_CHANNELS, RESNEXT_STRIDES, strict=True):
        out_channels = scale_channels(base, width)
        parts[path] = BranchedBlock(channels, out_channels, branches, branch_channels, stride)
        channels = out_channels
    parts["head"] = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return PaperNetwork(parts, RESNEXT_TAPS)


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
