"""The public names: all there, each imported only when it is used."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import svdistill
from test_import_direction import HOUSE

SOURCE = Path(svdistill.__file__).read_text()
# Large, optional, or of use to few.
HEAVY = (
    *("accelerate", "datasets", "jinja2", "lightning", "matplotlib", "onnx", "onnxruntime"),
    *("pandas", "pyarrow", "scipy", "sklearn", "tensorboard", "timm", "torch._dynamo"),
    *("torch._inductor", "torch.onnx", "torchdistill", "torchmetrics", "torchvision"),
    "transformers",
)
LOOP = """
import svdistill as sd
seen("import svdistill")
import torch
from torch import nn
teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5))
student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5))
images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
taps = sd.pair_taps(teacher, student, images)
distiller = sd.Distiller(teacher, student, sd.SVDLoss(num_vectors=1), taps=taps)
out = distiller(images)
distiller.backward(nn.functional.cross_entropy(out.logits, labels), out, progress=0)
seen("a loop")
from svdistill import *
seen("all names")
"""


def type_checked_names() -> set[str]:
    """What the file imports for type checkers."""
    tree = ast.parse(SOURCE)
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """The modules that are there in a fresh process at each point of a program."""
    script = (
        "import json, sys\nmodules = {}\n"
        "def seen(point): modules[point] = sorted(sys.modules)\n"
        f"{LOOP}\nprint(json.dumps(modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return {point: set(names) for point, names in json.loads(done.stdout).items()}


def test_the_package_alone_imports_nothing(imported: dict[str, set[str]]) -> None:
    found = {name.partition(".")[0] for name in imported["import svdistill"]}
    others = found - set(sys.stdlib_module_names)
    assert "svdistill" in others
    assert not others & {"torch", "numpy", "rich", "PIL", "yaml", "jsonargparse", *HEAVY}
    assert not any(name.startswith("svdistill.") for name in imported["import svdistill"])


@pytest.mark.parametrize("heavy", HEAVY)
@pytest.mark.parametrize("point", ["a loop", "all names"])
def test_what_is_heavy_waits_until_it_is_used(
    point: str, heavy: str, imported: dict[str, set[str]]
) -> None:
    assert "torch" in imported[point]
    assert heavy not in imported[point]


def test_a_loop_needs_few_rooms(imported: dict[str, set[str]]) -> None:
    rooms = {name.split(".")[1] for name in imported["a loop"] if name.startswith("svdistill.")}
    assert "distillation" in rooms
    assert not rooms & {"data", "training", "report", "paper", "export", "cli"}


@pytest.mark.parametrize("name", svdistill.__all__)
def test_every_name_is_there(name: str) -> None:
    found = getattr(svdistill, name)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_type_checkers_and_dir_see_the_same_names() -> None:
    assert type_checked_names() == set(svdistill.__all__)
    assert set(svdistill.__all__) <= set(dir(svdistill))
    assert len(set(svdistill.__all__)) == len(svdistill.__all__)


def test_rooms_are_attributes_too() -> None:
    assert list(svdistill._NAMES) == HOUSE
    assert not set(HOUSE) & set(svdistill.__all__)
    assert set(HOUSE) <= set(dir(svdistill))
    script = "import svdistill; print(svdistill.config.training.TrainConfig.__name__)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.strip() == b"TrainConfig"


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'svdistill' has no attribute 'Distilller'"):
        _ = svdistill.Distilller
    with pytest.raises(ImportError, match="Distilller"):
        exec("from svdistill import Distilller")


def test_a_star_imports_them_all() -> None:
    names: dict[str, object] = {}
    exec("from svdistill import *", names)
    assert set(svdistill.__all__) <= set(names)
