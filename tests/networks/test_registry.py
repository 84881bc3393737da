"""Networks by name, and from the user's own code."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.networks import (
    build_network,
    import_network,
    input_spec,
    is_code,
    is_zoo,
    pretrained_classes,
)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ArgumentError, match=r"name: .*'vgg_teachr'; did you mean 'vgg_teacher'"):
        build_network("vgg_teachr", 10)


@pytest.mark.parametrize("name", ["", None, 3, "VGG_TEACHER", ["vgg_teacher"]])
def test_wrong_names(name):
    with pytest.raises(ArgumentError, match="name: expected one of 'vgg_teacher'"):
        build_network(name, 10)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "10", True, None])
def test_wrong_class_counts(num_classes):
    with pytest.raises(ArgumentError, match="num_classes: expected an integer of at least 1"):
        build_network("vgg_student", num_classes)


@pytest.mark.parametrize("width", [0, -0.5, math.inf, math.nan, "1", True, None])
def test_wrong_widths(width):
    with pytest.raises(ArgumentError, match="width: expected a positive finite number"):
        build_network("vgg_student", 10, width)


@pytest.mark.parametrize(
    ("name", "zoo", "code"),
    [
        ("vgg_student", False, False),
        ("timm:resnet18", True, False),
        ("torchvision:", True, False),
        ("hf:./folder", True, False),
        ("my.nets:build", False, True),
        (":build", False, True),
        ("timm", False, False),
        ("TIMM:resnet18", False, True),
        (None, False, False),
    ],
)
def test_what_a_name_means(name, zoo, code):
    assert (is_zoo(name), is_code(name)) == (zoo, code)


def test_networks_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "nets_of_ones_own.py").write_text(
        "from torch import nn\ndef build(num_classes):\n    return nn.Linear(3, num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert build_network("nets_of_ones_own:build", 7).out_features == 7
    assert input_spec("nets_of_ones_own:build") is None
    assert pretrained_classes("nets_of_ones_own:build") is None
    with pytest.raises(ArgumentError, match=r"^width: expected 1 with a network that is none of"):
        build_network("nets_of_ones_own:build", 7, width=0.5)
    with pytest.raises(ArgumentError, match=r"^network: expected a module"):
        build_network("absent_nets:build", 7)


@pytest.mark.parametrize("name", ["vgg_student", "my_nets:build"])
def test_only_libraries_publish_weights(name):
    with pytest.raises(ArgumentError, match=rf"^pretrained: .*got '{name}'"):
        build_network(name, 10, pretrained=True)


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "timm:resnet18"), ("torchvision", "torchvision:resnet18"), ("transformers", "hf:.")],
)
def test_a_library_that_is_missing_is_named_with_the_command(library, name, monkeypatch):
    def absent(module, *arguments):
        if module.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return importlib.__import__(module)

    monkeypatch.setattr("importlib.import_module", absent)
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [None])
    with pytest.raises(ArgumentError, match=rf"^{library}: .*pip install 'svdistill\[zoo\]'"):
        build_network(name, 10)


SOURCE = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3, num_classes)

def build(num_classes, depth=1):
    return nn.Sequential(*[nn.Linear(3, num_classes)] * depth)

def fixed():
    return nn.Linear(3, 7)

def demanding(backbone):
    return backbone

def failing(num_classes):
    raise FileNotFoundError("weights.pt")

def number():
    return 3

instance = nn.Linear(3, 4)
constant = 5
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The current directory with a module of the user's."""
    (tmp_path / "my_nets.py").write_text(SOURCE)
    (tmp_path / "broken_nets.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("my_nets", "broken_nets"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("attribute", "classes"), [("Net", 10), ("build", 10), ("fixed", 7)])
def test_builds_what_the_user_wrote(code, attribute, classes):
    network = import_network(f"my_nets:{attribute}", num_classes=10)
    assert isinstance(network, nn.Module)
    assert network(torch.zeros(2, 3)).shape == (2, classes)


def test_an_instance_is_taken_as_it_is(code):
    network = import_network("my_nets:instance", num_classes=10)
    assert network is sys.modules["my_nets"].instance


@pytest.mark.parametrize("module", ["no_such_module", "broken_nets", "", ".relative", "a..b"])
def test_a_module_that_cannot_be_imported(code, module):
    with pytest.raises(ArgumentError, match=r"^teacher: .*can be imported.*PYTHONPATH"):
        import_network(f"{module}:net", num_classes=10)


def test_a_module_that_fails_says_why(code):
    with pytest.raises(ArgumentError, match="nothing_of_that_name"):
        import_network("broken_nets:net", num_classes=10)


@pytest.mark.parametrize(("attribute", "said"), [("biuld", "did you mean 'build'"), ("", "choose")])
def test_an_attribute_that_is_not_there(code, attribute, said):
    with pytest.raises(ArgumentError, match=rf"^teacher: .*attribute of module my_nets.*{said}"):
        import_network(f"my_nets:{attribute}", num_classes=10)


@pytest.mark.parametrize(("attribute", "kind"), [("constant", "int"), ("number", "int")])
def test_what_is_no_network(code, attribute, kind):
    with pytest.raises(ArgumentError, match=rf"^teacher: .*nn\.Module.*got {kind}"):
        import_network(f"my_nets:{attribute}", num_classes=10)


@pytest.mark.parametrize(
    ("attribute", "why"),
    [("demanding", "TypeError.*backbone"), ("failing", r"FileNotFoundError: weights\.pt")],
)
def test_a_function_that_fails(code, attribute, why):
    with pytest.raises(ArgumentError, match=rf"^teacher: .*{why}.*wrap it"):
        import_network(f"my_nets:{attribute}", num_classes=10)


def test_a_callable_without_a_signature():
    with pytest.raises(ArgumentError, match=r"^teacher: "):
        import_network("builtins:type", num_classes=10)
