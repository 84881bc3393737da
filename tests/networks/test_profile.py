"""Tests of the counts of parameters and FLOPs and of the tap shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.networks import build_network, network_names, profile_network

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
