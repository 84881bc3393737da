import sys

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.networks import import_network

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
