"""Tests of the paper's table next to what we count."""

from __future__ import annotations

import pytest

from svdistill.common.errors import ArgumentError
from svdistill.networks import describe_network, network_names, published_size


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
