"""Networks of other packages, with random weights or with none at all on the `meta` device."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.networks import build_network
from svdistill.networks.torchvision_models import prepare_torchvision


def random_network(name: str, device: str = "meta", **options: object) -> nn.Module:
    """`timm:NAME`, `torchvision:NAME`, `hf:CLASS` by its config, `paper:NAME` or `resnet20`."""
    zoo, _, key = name.partition(":")
    prepare_torchvision()
    if zoo == "timm":
        timm = pytest.importorskip("timm")
        with torch.device(device):
            return timm.create_model(key, pretrained=False, **options)
    if zoo == "torchvision":
        torchvision = pytest.importorskip("torchvision")
        with torch.device(device):
            return torchvision.models.get_model(key, weights=None, **options)
    if zoo == "hf":
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{key}Config")(**options)
        with torch.device(device):
            return getattr(transformers, f"{key}ForImageClassification")(config)
    if zoo == "paper":
        return build_network(key, num_classes=10).to(device)
    return ResNet20().to(device)


class ResNet20(nn.Module):
    """The CIFAR network of He et al.: three stages, no weights in its shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, stride=2), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64, stride=2), Block(64, 64), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer1(F.relu(self.stem(images)))
        return self.head(self.layer3(self.layer2(maps)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride, self.new_channels = stride, out_channels - channels

    def forward(self, maps: Tensor) -> Tensor:
        found = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        kept = maps[:, :, :: self.stride, :: self.stride]
        return F.relu(found + F.pad(kept, (0, 0, 0, 0, 0, self.new_channels)))
