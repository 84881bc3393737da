"""Tests that a model's configuration makes nothing run but transformers' own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.networks import build_network
from svdistill.networks.transformers_models import build_transformers_network, transformers_config
from tiny_hf import CONFIG, write_folder


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
    assert network.config._attn_implementation in ("sdpa", "eager")  # type: ignore[union-attr]
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
