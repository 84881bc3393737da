"""Tests of `stage_costs`."""

from __future__ import annotations

import torch
from torch import nn

from svdistill.networks import build_paper_network, profile_network
from svdistill.networks.profile import Cost, stage_costs


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
