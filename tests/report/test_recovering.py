import pytest
import torch
from made_runs import made_run

from svdistill.networks import build_network, network_names, profile_network
from svdistill.report.recovering import Input, input_of
from svdistill.report.runs import Run


@pytest.mark.parametrize("name", network_names())
def test_classes_and_images_of_early_runs_are_found_from_what_they_counted(name: str) -> None:
    with torch.device("meta"):
        size = profile_network(build_network(name, 37, 0.25), (3, 32, 32))
    run = made_run(name, name, parameters=size.parameters, flops=size.flops, width=0.25)
    assert input_of(run) == Input(num_classes=37, image_size=32)


def test_later_runs_say_both_and_their_weights_too(distilled: Run) -> None:
    assert input_of(made_run("run", side=48)) == Input(10, 48)
    assert input_of(distilled) == Input(10, 16)
