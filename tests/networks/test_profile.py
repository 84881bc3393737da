"""Counts of parameters and FLOPs, stages, and the paper's table."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.networks import (
    build_network,
    build_paper_network,
    describe_network,
    network_names,
    profile_network,
    published_size,
)
from svdistill.networks.profile import Cost, stage_costs
from svdistill.networks.torchvision_models import prepare_torchvision

COUNTS = {  # FLOPs and parameters in millions at 100 classes and 3 x 32 x 32
    "vgg_teacher": ("576.3", "10.89"),
    "vgg_student": ("121.2", "3.75"),
    "vgg_stride_student": ("33.6", "3.75"),
    "mobilenet_teacher": ("175.8", "2.21"),
    "mobilenet_student": ("73.1", "0.82"),
    "resnext_teacher": ("542.6", "0.65"),
    "resnext_student": ("273.1", "0.34"),
}
HALF_WIDTH = {"mobilenet_teacher": ("46.0", "0.59"), "mobilenet_student": ("19.8", "0.23")}


def in_millions(name: str, width: float = 1.0) -> tuple[str, str]:
    profile = profile_network(build_network(name, 100, width))
    return f"{profile.flops / 1e6:.1f}", f"{profile.parameters / 1e6:.2f}"


def test_every_network_is_counted():
    assert set(COUNTS) == set(network_names())


@pytest.mark.parametrize("name", COUNTS)
def test_counts_at_full_width(name):
    assert in_millions(name) == COUNTS[name]


@pytest.mark.parametrize("name", HALF_WIDTH)
def test_counts_at_half_width(name):
    assert in_millions(name, 0.5) == HALF_WIDTH[name]


def test_vgg_student_counted_by_hand():
    plan = [(3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 512, 4)]
    weights = [9 * source * target for source, target, _ in plan]
    dense = [2048 * 1024, 1024 * 100]
    flops = 2 * sum(w * side**2 for w, (_, _, side) in zip(weights, plan, strict=True))
    profile = profile_network(build_network("vgg_student", 100))
    assert profile.flops == flops + 2 * sum(dense)
    assert profile.parameters == sum(weights) + 64 + 128 + 256 + 512 + sum(dense) + 1024 + 100


def test_taps_come_in_the_order_asked_for():
    network = build_network("vgg_student", 10, 0.25)
    profile = profile_network(network, (3, 16, 16), ("stage4", "stage1", "head.2"))
    assert profile.taps == (("stage4", (128, 1, 1)), ("stage1", (16, 8, 8)), ("head.2", (256,)))


def test_network_comes_back_as_it_was():
    network = build_network("mobilenet_student", 10, 0.25).train()
    network.stage2.eval()
    modes = {path: module.training for path, module in network.named_modules()}
    state = {path: value.clone() for path, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    profile_network(network, tap_paths=network.tap_paths)
    assert {path: module.training for path, module in network.named_modules()} == modes
    assert all(torch.equal(value, state[path]) for path, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_network_comes_back_as_it_was_after_a_failure():
    network = build_network("mobilenet_student", 10, 0.25).train()
    with pytest.raises(RuntimeError):
        profile_network(network, (5, 32, 32), network.tap_paths)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def test_shared_weights_count_once_and_run_twice():
    shared = nn.Linear(4, 4, bias=False)
    profile = profile_network(nn.Sequential(shared, shared), (1, 1, 4))
    assert (profile.parameters, profile.flops) == (16, 2 * 2 * 16)


def test_module_without_parameters():
    profile = profile_network(nn.Sequential(nn.ReLU()), (3, 4, 5), ("0",))
    assert (profile.parameters, profile.flops, profile.taps) == (0, 0, (("0", (3, 4, 5)),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_count_the_same(dtype):
    expected = profile_network(build_network("resnext_student", 10, 0.25))
    assert profile_network(build_network("resnext_student", 10, 0.25).to(dtype)) == expected


def test_unknown_tap_suggests_the_nearest():
    with pytest.raises(ArgumentError, match=r"stage5.*did you mean.*stage"):
        profile_network(build_network("vgg_student", 10, 0.25), tap_paths=("stage5",))


def test_tap_that_does_not_run():
    network = build_network("vgg_student", 10, 0.25)
    network.stage1[0].unused = nn.ReLU()
    with pytest.raises(ArgumentError, match=r"stage1\.0\.unused"):
        profile_network(network, tap_paths=("stage1.0.unused",))


@pytest.mark.parametrize("shape", [(3, 32), (1, 3, 32, 32), (3, 0, 32), (3, 32.0, 32), (3, -1, 4)])
def test_wrong_image_shapes(shape):
    with pytest.raises(ArgumentError, match="image_shape: expected"):
        profile_network(build_network("vgg_student", 10, 0.25), shape)


def test_attention_is_counted_whatever_kernel_would_run_it() -> None:
    class Attention(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(2)  # three tokens of 16 numbers
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    # Two products of [3, 16] with [16, 3], and of [3, 3] with [3, 16].
    assert profile_network(Attention(), (3, 4, 4)).flops == 2 * (3 * 16 * 3 + 3 * 3 * 16)


def test_costs_are_those_of_the_parts_by_themselves() -> None:
    network = build_paper_network("mobilenet_student", 10, 0.25).eval()
    parts = tuple(dict(network.named_children()))
    *costs, rest = stage_costs(network, torch.zeros(1, 3, 16, 16), parts)
    shapes = dict(profile_network(network, (3, 16, 16), parts).taps)
    inputs = [(3, 16, 16), *shapes.values()]
    for path, cost, shape in zip(parts, costs, inputs, strict=False):
        alone = profile_network(network.get_submodule(path), shape)
        assert cost == Cost(alone.parameters, alone.flops), path
    assert rest == Cost(0, 0)


def test_what_lies_between_two_modules_is_of_the_second() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    costs = stage_costs(network.eval(), torch.zeros(1, 3, 2, 2), ["0", "2"])
    assert costs == (Cost(16, 96), Cost(20, 128), Cost(10, 64))


def test_parameters_of_a_child_that_is_not_called_count_with_its_parent() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            attended: torch.Tensor = self.attention(tokens, tokens, tokens)[0]
            return attended

    network = nn.Sequential(nn.Flatten(2), Block()).eval()
    costs = stage_costs(network, torch.zeros(1, 3, 2, 4), ["1"])
    assert costs[0].parameters == sum(parameter.numel() for parameter in attention.parameters())
    assert costs[1] == Cost(0, 0)


def test_the_network_comes_back_without_hooks() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    stage_costs(network, torch.zeros(1, 3, 2, 2), ["0"])
    assert not any(module._forward_hooks for module in network.modules())


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


def printed_like(value: int, published: int, decimals: int) -> bool:
    return round(value / 1e6, decimals) == round(published / 1e6, decimals)


@pytest.mark.parametrize("name", ["vgg_teacher", "vgg_student"])
def test_vgg_agrees_with_the_table(name):
    profile, table = describe_network(name).profile, published_size(name)
    assert profile.flops == pytest.approx(table.flops, rel=1e-3)
    assert printed_like(profile.parameters, table.parameters, 1)


@pytest.mark.parametrize("name", ["mobilenet_student", "resnext_student"])
def test_parameters_agree_with_the_two_printed_decimals(name):
    profile, table = describe_network(name).profile, published_size(name)
    assert printed_like(profile.parameters, table.parameters, 2)


@pytest.mark.parametrize("name", network_names())
def test_a_note_stands_exactly_where_the_printed_flops_differ(name):
    profile, table = describe_network(name).profile, published_size(name)
    assert bool(table.deviation) == (not printed_like(profile.flops, table.flops, 1))
    if table.deviation:
        assert f"{profile.flops / 1e6:.1f}M FLOPs" in table.deviation


def test_unknown_name():
    with pytest.raises(ArgumentError, match="did you mean 'vgg_student'"):
        published_size("vgg_studnt")
