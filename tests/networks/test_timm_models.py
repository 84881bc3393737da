"""Tests of timm's networks by name. Nothing is downloaded: published weights are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from svdistill.common.errors import ArgumentError
from svdistill.networks import InputSpec, build_network, input_spec, pretrained_classes
from svdistill.networks.torchvision_models import prepare_torchvision

prepare_torchvision()
timm = pytest.importorskip("timm")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of test_resnet for 1,000 classes, where the hub's would be kept."""
    torch.manual_seed(1)
    tensors = timm.create_model("test_resnet").state_dict()
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    asked = {("timm/test_resnet.r160_in1k", "model.safetensors"): file}
    monkeypatch.setattr(
        "svdistill.networks.timm_models.in_hub_cache", lambda *names: asked.get(names)
    )
    return tensors


def no_hub(repository: str) -> None:
    raise ConnectionError(f"cannot reach {repository}")


@pytest.mark.parametrize("classes", [1, 7, 1000])
def test_builds_for_so_many_classes(classes: int) -> None:
    network = build_network("timm:test_resnet", classes)
    assert network.training
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_a_network_for_one_size_is_built_for_the_size_given() -> None:
    images = torch.zeros(2, 3, 48, 48)
    assert build_network("timm:vit_tiny_patch16_224", 3, image_size=48)(images).shape == (2, 3)
    with pytest.raises(AssertionError, match="48"):
        build_network("timm:vit_tiny_patch16_224", 3)(images)


def test_published_weights_come_back(published: dict[str, torch.Tensor]) -> None:
    network = build_network("timm:test_resnet", 1000, pretrained=True)
    state = network.state_dict()
    assert all(torch.equal(state[name], published[name]) for name in published)


def test_published_weights_of_other_classes_lose_their_head(
    published: dict[str, torch.Tensor],
) -> None:
    torch.manual_seed(3)
    network = build_network("timm:test_resnet", 10, pretrained=True)
    state = network.state_dict()
    differing = {name for name in state if not torch.equal(state[name], published[name])}
    assert differing == {"fc.weight", "fc.bias"}
    assert state["fc.weight"].shape == (10, published["fc.weight"].shape[1])
    torch.manual_seed(3)
    again = build_network("timm:test_resnet", 10, pretrained=True).state_dict()
    assert torch.equal(again["fc.weight"], state["fc.weight"])


def test_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdistill.networks.timm_models.in_hub_cache", lambda *names: None)
    monkeypatch.setattr("svdistill.networks.timm_models.require_hub", no_hub)
    with pytest.raises(
        ArgumentError, match=r"^timm:test_resnet: .*ConnectionError.*--weights"
    ) as e:
        build_network("timm:test_resnet", 10, pretrained=True)
    assert "\n" not in str(e.value)


def test_a_network_without_published_weights() -> None:
    (name, *_) = set(timm.list_models()) - {
        tagged.partition(".")[0] for tagged in timm.list_pretrained()
    }
    with pytest.raises(ArgumentError, match=r"one of which timm has none; leave pretrained out"):
        build_network(f"timm:{name}", 10, pretrained=True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnt18", "did you mean 'resnet18'"),
        ("resnet18.a1_in2k", "did you mean 'resnet18.a1_in1k'"),
        ("", "choose from"),
        ("hf-hub:someone/else", "timm: and a name that timm has"),
        ("local-dir:/tmp", "timm: and a name that timm has"),
    ],
)
def test_misspelt_names(name: str, nearest: str) -> None:
    with pytest.raises(ArgumentError, match=nearest):
        build_network(f"timm:{name}", 10)


def test_what_images_the_weights_were_trained_on() -> None:
    expected = InputSpec(160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert input_spec("timm:test_resnet.r160_in1k") == expected
    assert input_spec("timm:test_resnet") == expected  # timm's default weights
    imagenet = InputSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_spec("timm:resnet18") == imagenet
    assert pretrained_classes("timm:resnet18") == 1000
    assert pretrained_classes("timm:tiny_vit_5m_224.dist_in22k") == 21841


def test_the_seeds_widths_are_the_seeds_alone() -> None:
    with pytest.raises(ArgumentError, match=r"^width: expected 1 .*none of the paper's"):
        build_network("timm:test_resnet", 10, 0.5)
