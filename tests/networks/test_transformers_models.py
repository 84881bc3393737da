"""Image classifiers of transformers, from folders alone: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdistill.common.errors import ArgumentError
from svdistill.common.logits import as_logits
from svdistill.networks import InputSpec, build_network, input_spec, pretrained_classes
from svdistill.networks.transformers_models import (
    build_transformers_network,
    load_transformers_weights,
    transformers_config,
)
from tiny_hf import CONFIG, transformers, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_folder(tmp_path_factory.mktemp("hf") / "vit")


def copy_of(folder: Path, target: Path, **changes: object) -> Path:
    """The folder with another configuration."""
    target.mkdir()
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (target / "config.json").write_text(json.dumps(config))
    save_file(
        load_file(folder / "model.safetensors"), target / "model.safetensors", {"format": "pt"}
    )
    return target


def test_builds_from_a_folder(folder: Path) -> None:
    network = build_network(f"hf:{folder}", 3)
    assert network.training
    assert as_logits(network(torch.zeros(2, 3, 16, 16))).shape == (2, 3)


def test_weights_come_with_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = transformers.AutoModelForImageClassification.from_pretrained(folder).state_dict()
    capsys.readouterr()
    whole = build_network(f"hf:{folder}", 5, pretrained=True).state_dict()
    assert all(torch.equal(whole[name], published[name]) for name in published)
    network = build_network(f"hf:{folder}", 3, pretrained=True)
    other = network.state_dict()
    differing = {name for name in other if not torch.equal(other[name], published[name])}
    assert differing == {"classifier.weight", "classifier.bias"}
    assert network.training
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert capsys.readouterr() == ("", "")  # transformers would print tables and bars


def test_a_fresh_one_is_built_for_the_size_given(folder: Path) -> None:
    network = build_network(f"hf:{folder}", 3, image_size=8)
    assert as_logits(network(torch.zeros(2, 3, 8, 8))).shape == (2, 3)


def test_half_precision_is_trained_in_full(folder: Path, tmp_path: Path) -> None:
    half = copy_of(folder, tmp_path / "half", dtype="float16", torch_dtype="float16")
    for pretrained in (True, False):
        network = build_network(f"hf:{half}", 5, pretrained=pretrained)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_weights_that_leave_more_than_the_head_to_chance(folder: Path, tmp_path: Path) -> None:
    partial = copy_of(folder, tmp_path / "partial")
    tensors = load_file(partial / "model.safetensors")
    dropped = next(name for name in tensors if "layers.1" in name or "layer.1" in name)
    del tensors[dropped]
    save_file(tensors, partial / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArgumentError, match=r"weights of a ViTForImageClassification, got none"):
        build_network(f"hf:{partial}", 5, pretrained=True)


def test_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    bare = copy_of(folder, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    build_network(f"hf:{bare}", 5)
    with pytest.raises(ArgumentError, match=r"^hf:.*bare: .*published weights.*--weights"):
        build_network(f"hf:{bare}", 5, pretrained=True)


def test_is_filled_with_names_of_other_versions(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")  # as earlier versions named them
    expected = build_network(f"hf:{folder}", 5, pretrained=True).state_dict()
    network = build_network(f"hf:{folder}", 5)
    assert load_transformers_weights(network, tensors) == ()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    other = build_network(f"hf:{folder}", 3)
    before = other.classifier.weight.clone()
    assert load_transformers_weights(other, tensors) == ("classifier.bias", "classifier.weight")
    assert torch.equal(other.classifier.weight, before)
    del tensors["vit.embeddings.cls_token"]
    with pytest.raises(RuntimeError, match=r"lacking: vit\.embeddings\.cls_token"):
        load_transformers_weights(network, tensors)
    with pytest.raises(RuntimeError, match="too many: stranger"):
        load_transformers_weights(
            network, {**load_file(folder / "model.safetensors"), "stranger": torch.zeros(1)}
        )


@pytest.mark.parametrize("place", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_folder_that_is_not_there(place: str) -> None:
    with pytest.raises(ArgumentError, match=r"^network: expected hf: and a folder.*check the path"):
        build_network(f"hf:{place}", 5)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str) -> None:
        raise ConnectionError(f"cannot reach {repository}")

    monkeypatch.setattr("svdistill.networks.transformers_models.in_hub_cache", lambda *names: None)
    monkeypatch.setattr("svdistill.networks.transformers_models.require_hub", offline)
    with pytest.raises(ArgumentError, match=r"^hf:someone/vit: .*ConnectionError: cannot reach"):
        build_network("hf:someone/vit", 5, pretrained=True)


def test_what_images_it_knows(folder: Path, tmp_path: Path) -> None:
    half = (0.5, 0.5, 0.5)
    assert input_spec(f"hf:{folder}") == InputSpec(16, half, half)  # a ViT's usual ones
    assert pretrained_classes(f"hf:{folder}") == 5
    told = copy_of(folder, tmp_path / "told")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 9}}
    (told / "preprocessor_config.json").write_text(json.dumps(processor))
    assert input_spec(f"hf:{told}") == InputSpec(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ({"size": {"shortest_edge": 96}}, 96),
        ({"size": {"shortest_edge": 96}, "crop_size": {"height": 84, "width": 84}}, 84),
        ({"size": 72}, 72),
        ({}, 224),
    ],
)
def test_the_size_of_images_where_the_network_takes_any(
    tmp_path: Path, sizes: dict[str, object], side: int
) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    config.save_pretrained(tmp_path)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **sizes}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = input_spec(f"hf:{tmp_path}")
    assert spec is not None
    assert spec.image_size == side


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return transformers_config(
        build_network(f"hf:{write_folder(tmp_path_factory.mktemp('hf'))}", 4)
    )


def test_builds_the_same_network_again(text: str) -> None:
    first, second = build_transformers_network(text, 4), build_transformers_network(text, 4)
    second.load_state_dict(first.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(first.eval()(images).logits, second.eval()(images).logits)
    assert transformers_config(second) == text


def test_says_nothing_of_this_machine(text: str) -> None:
    assert not {"_name_or_path", "transformers_version"} & json.loads(text).keys()
    assert json.loads(text)["model_type"] == "vit"


@pytest.mark.parametrize(
    "hostile",
    [
        {"attn_implementation": "stranger/kernel"},
        {"_attn_implementation": "stranger/kernel"},
        {"experts_implementation": "stranger/kernel"},
        {"auto_map": {"AutoModelForImageClassification": "stranger/code--net.Net"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_code_from_outside_is_not_asked_for(
    text: str, hostile: dict[str, object], tmp_path: Path
) -> None:
    config = {**json.loads(text), **hostile}
    network = build_transformers_network(json.dumps(config), 4)
    assert type(network).__module__.startswith("transformers.models.vit")
    assert network.config._attn_implementation in ("sdpa", "eager")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(build_network(f"hf:{tmp_path}", 4)) is type(network)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("", "None"),
        ("[]", "None"),
        ("{", "None"),
        ('{"model_type": 3}', "the model_type 3"),
        ('{"model_type": ["vit"]}', r"the model_type \['vit'\]"),
        ('{"model_type": "stranger"}', "the model_type 'stranger'"),
        ('{"model_type": "bert"}', "classifies no images"),
        ('{"model_type": "timm_wrapper", "architecture": "hf-hub:a/b"}', "named timm:NAME"),
        ('{"model_type": "vit", "hidden_size": "many"}', "hidden_size"),
    ],
)
def test_what_is_no_classifier(config: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^config: expected an image classifier.*{said}"):
        build_transformers_network(config, 4)


def test_another_number_of_classes_is_another_head(text: str) -> None:
    assert CONFIG.num_labels == 5
    assert build_transformers_network(text, 7)(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 7)
