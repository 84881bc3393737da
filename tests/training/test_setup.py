"""Initial students."""

import pytest
import torch
from torch import nn

from svdistill import SVDistillError
from svdistill.training import load_data
from svdistill.training.setup import new_student
from tiny_runs import train_config

CPU = torch.device("cpu")


def student(**options):
    config = train_config("unused", **options)
    return new_student(config, load_data(config), CPU)


def probabilities(network):
    return [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]


@pytest.mark.parametrize(("asked", "found"), [(None, 0.5), (0.0, 0.0), (0.2, 0.2)])
def test_dropout_is_that_of_the_option_or_of_the_network(asked, found):
    network = student(network="vgg_teacher", dropout=asked)
    assert probabilities(network) == [found, found]


def test_no_dropout_is_true_of_a_network_without_it():
    assert probabilities(student(network="mobilenet_student", dropout=0.0)) == []


def test_dropout_of_a_network_without_it_is_refused():
    with pytest.raises(SVDistillError, match=r"dropout: .*without dropout layers.*leave it out"):
        student(network="mobilenet_student", dropout=0.2)
