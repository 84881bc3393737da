"""Tests of what is particular to the MobileNets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svdistill.networks import build_network
from svdistill.networks.paper import separable_block


@pytest.mark.parametrize(
    ("name", "depths"), [("mobilenet_teacher", [1, 2, 2, 2]), ("mobilenet_student", [1, 1, 1, 1])]
)
def test_blocks_per_stage(name, depths):
    network = build_network(name, 10)
    assert [len(network.get_submodule(path)) for path in network.tap_paths] == depths


@pytest.mark.parametrize("name", ["mobilenet_teacher", "mobilenet_student"])
def test_every_convolution_is_normalised_and_has_no_bias(name):
    modules = list(build_network(name, 10, 0.25).modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert [c.out_channels for c in convolutions] == [n.num_features for n in norms]
    assert all(convolution.bias is None for convolution in convolutions)


def test_depthwise_convolution_keeps_channels_apart():
    block = separable_block(4, 8, stride=1).eval()
    depthwise = block[0]
    images = torch.zeros(1, 4, 5, 5)
    images[:, 2] = torch.randn(5, 5)
    assert depthwise(images)[:, [0, 1, 3]].eq(0).all()
    assert depthwise(images)[:, 2].abs().sum() > 0
