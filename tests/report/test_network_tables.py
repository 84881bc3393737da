import io

import pytest
from rich.console import Console

from svdistill.networks import describe_network, network_names
from svdistill.report import network_table, networks_table


def text(table, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("name", network_names())
def test_one_network_shows_its_parts_sum_and_deviation(name):
    network = describe_network(name)
    shown = text(network_table(network).to_rich())
    for stage in network.stages:
        assert stage.path in shown
        assert f"{stage.parameters:,}" in shown
    assert f"{network.profile.parameters:,}" in shown
    assert "paper's table" in shown
    assert ("Deviation:" in shown) == bool(network.published.deviation)


def test_other_settings_are_not_compared_with_the_published_ones():
    shown = text(network_table(describe_network("vgg_student", num_classes=10)).to_rich())
    assert "paper's table" not in shown


def test_all_networks_have_a_row_with_an_unbroken_name():
    shown = text(
        networks_table([describe_network(name) for name in network_names()]).to_rich(), width=80
    )
    for name in network_names():
        assert f" {name} " in shown
