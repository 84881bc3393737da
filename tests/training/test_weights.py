import json
import pickle
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import Bomb, flipped
from torch import nn

from svdistill.errors import ArgumentError, RunError, SVDistillError
from svdistill.networks import build_network
from svdistill.training.weights import (
    WeightsCard,
    load_student,
    load_teacher,
    load_weights,
    read_card,
    save_weights,
)

CARD = WeightsCard(
    "mobilenet_student", 0.05, ("zero", "ä", '"'), (0.1, 1 / 3, 0.3), (0.2, 0.3, 0.4), 16
)


def network(classes=3, width=0.05):
    torch.manual_seed(0)
    built = build_network("mobilenet_student", classes, width)
    built(torch.rand(8, 3, 16, 16))  # batch statistics that are not the initial ones
    return built.eval()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "student.safetensors"
    save_weights(path, network(), CARD)
    return path


def logits(model):
    return model(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


class TestLoadStudent:
    def test_gives_the_very_logits(self, path):
        for where in (path, str(path), path.parent):
            loaded = load_student(where)
            assert not any(module.training for module in loaded.modules())
            assert logits(loaded).equal(logits(network()))

    def test_of_a_network_kept_channels_last(self, path):
        save_weights(path, network().to(memory_format=torch.channels_last), CARD)
        assert logits(load_student(path)).equal(logits(network()))

    def test_needs_a_card(self, path):
        save_file(load_file(path), path)
        with pytest.raises(RunError, match=r"student\.safetensors: .*does not say what network"):
            load_student(path)

    def test_of_nothing(self, tmp_path):
        with pytest.raises(RunError, match=r"student\.safetensors: .*FileNotFoundError|No such"):
            load_student(tmp_path)


def test_the_card_comes_back(path):
    assert read_card(path) == CARD
    assert len(read_card(path).sha256) == 64


def test_equal_networks_make_equal_files(path):
    first = path.read_bytes()
    save_weights(path, network(), CARD)
    assert path.read_bytes() == first


def test_the_file_is_plain_safetensors(path):
    tensors = load_file(path)
    expected = network().state_dict()
    assert set(tensors) == set(expected)
    assert all(tensors[name].equal(expected[name]) for name in tensors)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["svdistill"])["network"] == "mobilenet_student"


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_file_cut_short(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    for load in (load_student, read_card, lambda p: load_weights(network(), p)):
        with pytest.raises(RunError, match=r"student\.safetensors: expected a \.safetensors file"):
            load(path)


def test_a_flipped_bit_never_loads_as_another_network(path):
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    expected = network().state_dict()
    places = [*range(0, header, 7), *range(header, len(content), 401), len(content) - 1]
    noticed = 0
    for place in places:
        path.write_bytes(flipped(content, place))
        try:
            loaded = load_student(path).state_dict()
        except SVDistillError:
            noticed += 1
            continue
        # The flip hit what means nothing, such as the name of the checksum.
        assert all(loaded[name].equal(expected[name]) for name in expected), place
        assert read_card(path) == CARD, place
    assert noticed > 0.98 * len(places)


def test_a_flipped_bit_in_the_weights_is_called_by_its_name(path):
    path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) - 100))
    with pytest.raises(RunError, match="its checksum is wrong"):
        load_student(path)


def test_files_without_a_checksum_still_load(path):
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["svdistill"])
    del fields["sha256"]
    save_file(load_file(path), path, {"svdistill": json.dumps(fields)})
    assert logits(load_student(path)).equal(logits(network()))


@pytest.mark.parametrize(
    "card", ["", "[]", "{", "3", "null", '{"network": "mobilenet_student"}', '"text"']
)
def test_a_damaged_card(path, card):
    save_file(load_file(path), path, {"svdistill": card})
    with pytest.raises(RunError, match="a header that svdistill wrote"):
        read_card(path)


@pytest.mark.parametrize("other", [network(4), network(width=0.1), nn.Linear(2, 2)])
def test_weights_of_another_network(path, other):
    with pytest.raises(RunError, match=rf"the weights of {type(other).__name__} as it was built"):
        load_weights(other, path)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


class TestLoadTeacher:
    def test_from_a_run_directory_and_from_its_files(self, path):
        for spec in (str(path), str(path.parent)):
            assert logits(load_teacher(spec, 3).eval()).equal(logits(network()))

    def test_its_card_goes_before_the_name_given(self, path):
        teacher = load_teacher(str(path), 3, network="vgg_teacher", width=1.0)
        assert count_parameters(teacher) == count_parameters(network())

    def test_from_another_tools_file_with_a_name(self, path):
        save_file(load_file(path), path)
        teacher = load_teacher(str(path), 3, network="mobilenet_student", width=0.05)
        assert logits(teacher.eval()).equal(logits(network()))

    def test_from_another_tools_file_without_a_name(self, path):
        save_file(load_file(path), path)
        with pytest.raises(ArgumentError, match=r"^teacher_network: .*student\.safetensors"):
            load_teacher(str(path), 3)

    @pytest.mark.parametrize(("name", "width"), [("mobilenet_student", 1.0), ("vgg_teacher", 0.05)])
    def test_from_another_tools_file_with_a_wrong_name(self, path, name, width):
        save_file(load_file(path), path)
        with pytest.raises(RunError, match=r"name, its width and the number of classes"):
            load_teacher(str(path), 3, network=name, width=width)

    def test_of_other_classes(self, path):
        with pytest.raises(RunError, match=r"teacher of the data's 10 classes, got one of 3"):
            load_teacher(str(path), 10)
        save_file(load_file(path), path)
        with pytest.raises(RunError, match=r"number of classes"):
            load_teacher(str(path), 10, network="mobilenet_student", width=0.05)

    def test_from_code(self, tmp_path, monkeypatch):
        (tmp_path / "teacher_code.py").write_text(
            "from torch import nn\ndef build(num_classes):\n    return nn.Linear(2, num_classes)\n"
        )
        monkeypatch.chdir(tmp_path)
        assert load_teacher("teacher_code:build", 10).out_features == 10
        del sys.modules["teacher_code"]

    @pytest.mark.parametrize("spec", ["runs/absent", "absent.safetensors", "vgg_teacher"])
    def test_from_nowhere(self, spec):
        with pytest.raises(ArgumentError, match=rf"^teacher: .*'{spec}', which does not exist"):
            load_teacher(spec, 10)

    def test_from_an_empty_directory(self, tmp_path):
        with pytest.raises(RunError, match=r"student\.safetensors"):
            load_teacher(str(tmp_path), 10)


class TestPickles:
    """Weights from a stranger must run nothing."""

    @pytest.fixture
    def fuse(self, tmp_path):
        pickle.loads(pickle.dumps(Bomb(tmp_path / "proof")))
        assert (tmp_path / "proof").exists()  # the bomb works
        return tmp_path / "exploded"

    @pytest.mark.parametrize("name", ["teacher.pt", "teacher.safetensors", "student.safetensors"])
    @pytest.mark.parametrize("dump", ["pickle", "torch", "torch_legacy"])
    def test_are_never_executed(self, tmp_path, fuse, name, dump):
        path = tmp_path / name
        if dump == "pickle":
            path.write_bytes(pickle.dumps(Bomb(fuse)))
        else:
            torch.save(Bomb(fuse), path, _use_new_zipfile_serialization=dump == "torch")
        for load in (
            lambda: load_teacher(str(path), 10),
            lambda: load_teacher(str(path), 10, network="vgg_teacher"),
            lambda: load_student(path),
        ):
            with pytest.raises(RunError, match=rf"{name}: expected a \.safetensors file"):
                load()
        assert not fuse.exists()
