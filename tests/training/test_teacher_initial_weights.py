import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from saved_networks import CARD, network
from svdistill.common.errors import RunError
from svdistill.networks import build_network
from svdistill.runs.weights import save_weights
from svdistill.training.teacher import fill_network
from tiny_runs import Bomb, flipped

WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "arguments": {"lr": 0.1}},
    "parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
}


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_from_a_file_of_torch(tmp_path, wrapping):
    torch.save(WRAPPINGS[wrapping](network().state_dict()), tmp_path / "weights.pth")
    filled = build_network("mobilenet_student", 3, 0.05)
    assert fill_network(filled, tmp_path / "weights.pth", 3) == ()
    assert equal(filled, network())


def test_from_safetensors_and_from_a_run(tmp_path):
    save_file(network().state_dict(), tmp_path / "any.safetensors")
    save_weights(tmp_path / "student.safetensors", network(), CARD)
    for place in (tmp_path / "any.safetensors", tmp_path, tmp_path / "student.safetensors"):
        filled = build_network("mobilenet_student", 3, 0.05)
        assert fill_network(filled, str(place), 3) == ()
        assert equal(filled, network())


def test_a_head_of_other_classes_is_left(tmp_path):
    save_file(network(classes=7).state_dict(), tmp_path / "seven.safetensors")
    filled = build_network("mobilenet_student", 3, 0.05)
    before = {name: tensor.clone() for name, tensor in filled.state_dict().items()}
    left = fill_network(filled, tmp_path / "seven.safetensors", 3)
    assert set(left) == {"head.2.weight", "head.2.bias"}
    source = network(classes=7).state_dict()
    for name, tensor in filled.state_dict().items():
        assert torch.equal(tensor, before[name] if name in left else source[name]), name


def test_a_head_may_be_a_convolution(tmp_path):
    save_file(nn.Sequential(nn.Conv2d(4, 9, 1)).state_dict(), tmp_path / "nine.safetensors")
    assert set(fill_network(nn.Sequential(nn.Conv2d(4, 2, 1)), tmp_path / "nine.safetensors", 2))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: network(width=0.1), "size mismatch"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "lacking: stem"),
        (lambda: nn.Sequential(network(), nn.Linear(2, 2)), "lacking: stem"),
    ],
)
def test_weights_of_another_network(tmp_path, other, told):
    save_file(other().state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(
        RunError, match=rf"the weights of PaperNetwork as it was built, got.*{told}"
    ):
        fill_network(network(), tmp_path / "other.safetensors", 3)


def test_weights_that_nothing_uses_are_of_another_network(tmp_path):
    """A deeper network of the same make has all names of a shallower one."""
    state = {**network().state_dict(), "stage9.weight": torch.zeros(2)}
    save_file(state, tmp_path / "deeper.safetensors")
    with pytest.raises(RunError, match=r"too many: stage9\.weight"):
        fill_network(network(), tmp_path / "deeper.safetensors", 3)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], 3, {"model": {"a": 1}}])
def test_a_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "else.pth")
    with pytest.raises(RunError, match=r"else\.pth: expected weights: a \.safetensors file, or"):
        fill_network(network(), tmp_path / "else.pth", 3)


@pytest.mark.parametrize(
    ("name", "got"),
    [("absent.pth", "FileNotFoundError"), ("absent.safetensors", "nothing at this path")],
)
def test_a_file_that_is_not_there(tmp_path, name, got):
    with pytest.raises(RunError, match=rf"{name}: expected .*got {got}"):
        fill_network(network(), tmp_path / name, 3)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors", "weights"])
@pytest.mark.parametrize("dump", ["pickle", "torch", "torch_legacy", "torch_within"])
def test_pickled_code_is_never_run(tmp_path, name, dump):
    fuse, path = tmp_path / "exploded", tmp_path / name
    if dump == "pickle":
        path.write_bytes(pickle.dumps(Bomb(fuse)))
    else:
        content = {"state_dict": Bomb(fuse)} if dump == "torch_within" else Bomb(fuse)
        torch.save(content, path, _use_new_zipfile_serialization=dump != "torch_legacy")
    with pytest.raises(RunError, match=rf"{name}: expected "):
        fill_network(network(), path, 3)
    assert not fuse.exists()


def test_a_small_archive_that_fills_the_memory_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"weight": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(RunError, match=r"a compressed archive of 4,\d+,\d+ bytes"):
        fill_network(network(), path, 3)


def test_a_flipped_bit_of_a_weight_is_found(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(network().state_dict(), path)
    content = path.read_bytes()
    weight = network().state_dict()["head.2.weight"].numpy().tobytes()
    path.write_bytes(flipped(content, content.index(weight)))
    with pytest.raises(RunError, match="damaged in"):
        fill_network(network(), path, 3)
