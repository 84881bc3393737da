"""Tests of the description of a network."""

from __future__ import annotations

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.networks import (
    build_network,
    describe_network,
    network_names,
    profile_network,
    published_size,
)
from svdistill.networks.torchvision_models import prepare_torchvision


@pytest.mark.parametrize("name", network_names())
def test_description_equals_the_profile_of_a_real_network(name):
    network = build_network(name, 20, 0.25)
    description = describe_network(name, num_classes=20, width=0.25, image_size=24)
    assert description.profile == profile_network(network, (3, 24, 24), network.tap_paths)


@pytest.mark.parametrize("name", network_names())
@pytest.mark.parametrize("image_size", [1, 28, 32])
def test_rows_add_up(name, image_size):
    description = describe_network(name, image_size=image_size)
    assert sum(row.parameters for row in description.stages) == description.profile.parameters
    assert sum(row.flops for row in description.stages) == description.profile.flops
    taps = tuple((row.path, row.shape) for row in description.stages if row.is_tap)
    assert taps == description.profile.taps
    assert len(taps) == 4
    assert description.stages[-1].shape == (100,)


def test_table_stands_only_beside_its_own_setting():
    assert describe_network("vgg_student").published == published_size("vgg_student")
    assert describe_network("vgg_student", num_classes=10).published is None
    assert describe_network("vgg_student", width=0.5).published is None
    assert describe_network("vgg_student", image_size=64).published is None


@pytest.mark.parametrize("name", network_names())
def test_larger_images_cost_convolutions_and_no_parameters(name):
    small, large = (describe_network(name, image_size=side) for side in (32, 64))
    assert large.profile.parameters == small.profile.parameters
    for row, other in zip(small.stages, large.stages, strict=True):
        assert other.flops == row.flops * (1 if row.path == "head" else 4)


@pytest.fixture
def zoo():
    prepare_torchvision()
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")


@pytest.mark.parametrize(
    "name",
    ["timm:test_resnet", "timm:test_vit", "torchvision:regnet_y_400mf", "torchvision:swin_t"],
)
def test_of_a_librarys_network_the_stages_and_the_rest_add_up(zoo, name):
    before = torch.get_rng_state()
    description = describe_network(name, num_classes=7, image_size=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert description.published is None
    *stages, rest = description.stages
    assert len(stages) >= 2
    assert all(row.is_tap for row in stages)
    assert (rest.path, rest.shape, rest.is_tap) == ("(rest)", (7,), False)
    assert sum(row.parameters for row in description.stages) == description.profile.parameters
    assert sum(row.flops for row in description.stages) == description.profile.flops
    real = profile_network(build_network(name, 7, image_size=64), (3, 64, 64))
    assert description.profile.parameters == real.parameters
    assert description.profile.flops == real.flops


def test_of_a_librarys_network_classes_and_size_are_its_weights(zoo):
    description = describe_network("torchvision:resnet18")
    assert (description.num_classes, description.image_size) == (1000, 224)
    assert description.profile.parameters == 11_689_512  # as torchvision's documentation says
    assert [row.path for row in description.stages[:-1]] == ["layer1", "layer2", "layer3", "layer4"]


def test_no_weight_is_drawn():
    generator = torch.get_rng_state()
    describe_network("vgg_teacher")
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "vgg"}, "name"),
        ({"num_classes": 0}, "num_classes"),
        ({"width": 0.0}, "width"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 32.0}, "image_size"),
    ],
)
def test_wrong_arguments(arguments, named):
    with pytest.raises(ArgumentError, match=rf"^{named}: expected"):
        describe_network(**{"name": "vgg_student", **arguments})
