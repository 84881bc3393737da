"""Tests of torchvision's classifiers by name. Nothing is downloaded: weights are made up."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.networks import InputSpec, build_network, input_spec, pretrained_classes
from svdistill.networks.torchvision_models import prepare_torchvision

prepare_torchvision()
models: Any = pytest.importorskip("torchvision.models")

# A classifier of each make: where its head lies, and what it is besides linear.
NAMES = ("resnet18", "squeezenet1_1", "mobilenet_v3_small")


def state_of(name: str, **options: object) -> dict[str, torch.Tensor]:
    """Stands for the published weights."""
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = models.get_model(name, weights=None, **options).state_dict()
    return state


def publish(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda url, **options: dict(state)
    )


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_of_other_classes_lose_their_head(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = state_of(name)
    publish(monkeypatch, published)
    network = build_network(f"torchvision:{name}", 10, pretrained=True)
    state = network.state_dict()
    assert state.keys() == published.keys()
    differing = {key for key in state if not torch.equal(state[key], published[key])}
    assert len(differing) == 2  # weight and bias
    assert all(state[key].shape == (10, *published[key].shape[1:]) for key in differing)
    assert network.training
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_published_weights_of_as_many_classes_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    published = state_of("squeezenet1_1")
    publish(monkeypatch, published)
    state = build_network("torchvision:squeezenet1_1", 1000, pretrained=True).state_dict()
    assert all(torch.equal(state[key], published[key]) for key in published)


def test_with_and_without_weights_it_is_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, state_of("googlenet", init_weights=False))
    pretrained = build_network("torchvision:googlenet", 5, pretrained=True).eval()
    fresh = build_network("torchvision:googlenet", 5).eval()
    fresh.load_state_dict(pretrained.state_dict())
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(images), pretrained(images))
    assert isinstance(fresh.train()(torch.rand(2, 3, 64, 64)), torch.Tensor)  # no auxiliary heads


def test_a_vision_transformer_is_built_for_the_size_given() -> None:
    network = build_network("torchvision:vit_b_32", 3, image_size=64)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ArgumentError, match=r"^torchvision:resnet18: .*URLError.*--weights"):
        build_network("torchvision:resnet18", 10, pretrained=True)


@pytest.mark.parametrize("name", ["resnt18", "fasterrcnn_resnet50_fpn", "quantized_resnet18", ""])
def test_names_that_torchvision_has_no_classifier_of(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"^network: expected torchvision: .*(mean|choose)"):
        build_network(f"torchvision:{name}", 10)


def test_what_images_the_weights_were_trained_on() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_spec("torchvision:resnet18") == InputSpec(224, *imagenet)
    assert input_spec("torchvision:efficientnet_v2_s") == InputSpec(384, *imagenet)
    assert pretrained_classes("torchvision:resnet18") == 1000


NEEDS_TORCHVISION = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@NEEDS_TORCHVISION
def test_what_imports_torchvision_imports_well_then() -> None:
    # In a process of its own: an operator is defined once in each.
    code = (
        "from svdistill.networks.torchvision_models import prepare_torchvision as prepare\n"
        "prepare(); prepare()\n"
        "import torchvision; print(torchvision.models.get_model('alexnet') is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_without_torchvision_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdistill.networks.torchvision_models.find_spec", lambda name: None)
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [])
    prepare_torchvision()


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("svdistill.networks.torchvision_models.find_spec", lambda name: object())
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [])
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(RuntimeError, match="no space left"):
        prepare_torchvision()


@pytest.mark.slow
@NEEDS_TORCHVISION
def test_in_the_environment_that_make_makes_timm_is_imported_as_it_is() -> None:
    pytest.importorskip("timm")
    folder = Path(__file__).parents[2] / ".ci"
    whole = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
    if whole.returncode == 0:
        pytest.skip("this torchvision needs no help")
    code = f"import site; site.addsitedir({str(folder)!r}); import timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
