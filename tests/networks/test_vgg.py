"""Tests of what is particular to the VGG networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svdistill.networks import build_network

VGG = ["vgg_teacher", "vgg_student", "vgg_stride_student"]


def stage_channels(name: str) -> list[list[int]]:
    """Output channels of every convolution, stage by stage."""
    network = build_network(name, 10)
    return [
        [m.out_channels for m in network.get_submodule(path).modules() if isinstance(m, nn.Conv2d)]
        for path in network.tap_paths
    ]


def test_convolutions_of_each_stage():
    assert stage_channels("vgg_teacher") == [[64] * 2, [128] * 2, [256] * 3, [512] * 3]
    assert stage_channels("vgg_student") == [[64], [128], [256], [512]]
    assert stage_channels("vgg_stride_student") == [[64], [128], [256], [512]]


def test_stride_student_has_the_pooled_student_weights_but_no_pooling():
    pooled, strided = (build_network(name, 10) for name in ("vgg_student", "vgg_stride_student"))
    assert not any(isinstance(module, nn.MaxPool2d) for module in strided.modules())
    strided.load_state_dict(pooled.state_dict())  # same paths, same shapes


@pytest.mark.parametrize("name", VGG)
def test_no_batch_norm(name):
    assert not any(isinstance(m, nn.BatchNorm2d) for m in build_network(name, 10).modules())


@pytest.mark.parametrize("name", VGG)
def test_dropout_only_in_training(name):
    network = build_network(name, 10, width=0.25)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.allclose(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(("name", "hidden_layers"), [("vgg_teacher", 2), ("vgg_student", 1)])
def test_dropout_follows_every_hidden_layer(name, hidden_layers):
    head = list(build_network(name, 10).head)[2:]
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * hidden_layers + [nn.Linear]
    assert all(layer.p == 0.5 for layer in head if isinstance(layer, nn.Dropout))


@pytest.mark.parametrize("name", VGG)
def test_head_pooling_changes_nothing_for_the_size_of_the_seed(name):
    network = build_network(name, 10, width=0.25).eval()
    images = torch.randn(2, 3, 32, 32)
    logits = network(images)
    network.head[0] = nn.Identity()
    assert torch.equal(network(images), logits)


@pytest.mark.parametrize("name", VGG)
def test_head_averages_the_quarters_of_a_larger_map(name):
    head = build_network(name, 10, width=0.25).eval().head
    features = torch.randn(2, 128, 4, 4)
    quarters = features.view(2, 128, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(head(features), head[1:](quarters))
