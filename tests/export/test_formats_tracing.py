"""Networks as graphs: whatever they return, the graph gives logits, for batches of any size."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import load_images
from svdistill.export.checks import compare, logits_of
from svdistill.export.formats import FORMATS, ExportedNetwork, trace_network
from svdistill.networks import build_network


class Returning(nn.Module):
    """A linear classifier that returns its logits in some wrapping."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)
        self.wrap = wrap

    def forward(self, images: Tensor):
        return self.wrap(self.linear(images.flatten(1)))


PAPER_NETWORKS = (
    *("vgg_teacher", "vgg_student", "vgg_stride_student", "mobilenet_teacher"),
    *("mobilenet_student", "resnext_teacher", "resnext_student"),
)


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_networks_of_the_paper_as_onnx(name: str) -> None:
    torch.manual_seed(0)
    network = ExportedNetwork(build_network(name, num_classes=10, width=0.1)).eval()
    batch = next(load_images("digits").test.batches(40, device="cpu", order_seed=0))
    content = FORMATS["onnx"].serialise(trace_network(network, 16), {}, None)
    images = batch.images / 255
    exported = FORMATS["onnx"].load(content)
    compare(logits_of(network, images), logits_of(exported, images)).require(name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: (logits, logits.sum()),
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: SimpleNamespace(logits=logits),
    ],
    ids=["tensor", "tuple", "dict", "object"],
)
def test_the_graph_gives_logits_only(wrap) -> None:
    network = ExportedNetwork(Returning(wrap)).eval()
    program = trace_network(network, 8)
    assert len(program.graph_signature.user_outputs) == 1
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(program.module()(images), network(images))


def test_batch_normalisation_as_in_evaluation() -> None:
    layer = nn.BatchNorm2d(3)
    layer.running_mean = torch.tensor([1.0, 2.0, 3.0])
    network = ExportedNetwork(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    content = FORMATS["torch"].serialise(trace_network(network, 8), {}, None)
    images = torch.rand(6, 3, 8, 8)
    means = images.mean(dim=(2, 3)) - torch.tensor([1.0, 2.0, 3.0])
    found = FORMATS["torch"].load(content)(images)
    torch.testing.assert_close(found, means, rtol=1e-4, atol=1e-5)


def test_what_onnx_has_no_operation_for() -> None:
    spectrum = Returning(lambda logits: torch.linalg.eigvalsh(torch.diag_embed(logits)))
    program = trace_network(ExportedNetwork(spectrum).eval(), 8)
    with pytest.raises(RunError, match="use --format torch") as caught:
        FORMATS["onnx"].serialise(program, {}, None)
    assert len(str(caught.value)) < 600


def test_what_is_no_classifier() -> None:
    with pytest.raises(ArgumentError, match="logits"):
        trace_network(ExportedNetwork(Returning(lambda logits: [None])), 8)


@pytest.mark.parametrize(
    "wrap",
    [lambda logits: logits if logits.sum() > 0 else -logits, lambda logits: logits.view(2, 4)],
    ids=["values", "batch size"],
)
def test_what_depends_on_values_or_on_the_batch_size(wrap) -> None:
    with pytest.raises(RunError, match=r"Returning: .*for batches of any size") as caught:
        trace_network(ExportedNetwork(Returning(wrap)), 8)
    assert "\n" not in str(caught.value)
