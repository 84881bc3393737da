"""A model folder as transformers saves it: a vision transformer of two layers."""

from pathlib import Path

import pytest

from svdistill.networks.torchvision_models import prepare_torchvision

prepare_torchvision()
transformers = pytest.importorskip("transformers")
CONFIG = transformers.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=16,
    patch_size=4,
    num_labels=5,
)


def write_folder(folder: Path) -> Path:
    """Save the model, freshly initialised."""
    network = transformers.AutoModelForImageClassification.from_config(CONFIG)
    network.save_pretrained(folder)
    return folder
