import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from saved_networks import CARD, logits, network
from svdistill.common.errors import ArgumentError, RunError, SVDistillError
from svdistill.networks import build_network
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.runs.weights import load_student, load_weights, read_card, save_weights
from svdistill.training import evaluate
from svdistill.training.teacher import load_teacher
from tiny_runs import Bomb, flipped

prepare_torchvision()  # timm and transformers import it


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "student.safetensors"
    save_weights(path, network(), CARD)
    return path


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
        expected = "expected a run directory or a weights file, got nothing at this path"
        with pytest.raises(RunError, match=rf"student\.safetensors: {expected}; finish the run"):
            load_student(tmp_path)
        with pytest.raises(RunError, match=rf"nowhere: {expected}; check the path"):
            load_student(tmp_path / "nowhere")


class TestCardsOfStrangers:
    """A card says of which network the weights are; it must not make us run anything else."""

    @pytest.fixture
    def code(self, tmp_path, monkeypatch):
        """Whoever imports it makes a file."""
        (tmp_path / "stranger.py").write_text(
            f"from pathlib import Path\nPath({str(tmp_path / 'exploded')!r}).touch()\n"
            "def net(num_classes):\n    raise SystemExit\n"
        )
        monkeypatch.chdir(tmp_path)
        return tmp_path / "exploded"

    @pytest.mark.parametrize(
        "named", ["stranger:net", ":net", "stranger:", "object", "", "stranger", "../stranger:net"]
    )
    def test_that_name_code(self, tmp_path, code, named):
        path = tmp_path / "student.safetensors"
        save_weights(path, network(), replace(CARD, network=named))
        for load in (load_student, lambda p: load_teacher(str(p), "abc"), evaluate):
            with pytest.raises(
                RunError, match=r"a network that is built by its name, got .*network="
            ):
                load(path)
        assert not code.exists()
        assert logits(load_student(path, network())).equal(logits(network()))

    @pytest.mark.parametrize("named", ["timm:stranger:net", "timm:hf-hub:a/b", "timm:local-dir:."])
    def test_that_name_no_network_of_a_library(self, tmp_path, code, named):
        pytest.importorskip("timm")
        path = tmp_path / "student.safetensors"
        save_weights(path, network(), replace(CARD, network=named, width=1.0))
        with pytest.raises(ArgumentError, match="timm: and a name that timm has"):
            load_student(path)
        assert not code.exists()

    def test_that_bring_a_configuration_with_code(self, tmp_path, code):
        pytest.importorskip("transformers")
        config = {"model_type": "stranger", "auto_map": {"AutoConfig": "stranger.net"}}
        path = tmp_path / "student.safetensors"
        save_weights(path, network(), CARD)
        card = replace(CARD, network="hf:stranger/net", config=json.dumps(config))
        save_file(load_file(path), path, {"svdistill": json.dumps(asdict(card))})
        with pytest.raises(ArgumentError, match="an image classifier that transformers has"):
            load_student(path)
        assert not code.exists()


def test_a_network_that_is_given_is_filled_and_put_at_rest(path):
    given = build_network("mobilenet_student", 3, 0.05)
    assert load_student(path, given) is given
    assert not given.training
    assert logits(given).equal(logits(network()))
    with pytest.raises(RunError, match="the weights of Linear as it was built"):
        load_student(path, nn.Linear(2, 2))


def test_shared_weights_survive(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("part", self.first.weight.detach()[:1])

    tied, other = Tied(), Tied()
    path = tmp_path / "student.safetensors"
    save_weights(path, tied, replace(CARD, network="object"))
    assert set(load_file(path)) == {"first.weight", "second.weight", "part"}
    load_student(path, other)
    assert other.second.weight is other.first.weight
    assert torch.equal(other.first.weight, tied.first.weight)
    with torch.no_grad():
        other.first.weight.zero_()
    assert not other.second.weight.any()


def test_the_card_comes_back(path):
    assert read_card(path) == CARD
    assert len(read_card(path).sha256) == 64


def test_a_card_without_a_configuration_is_as_earlier_versions_wrote_it(path):
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["svdistill"])
    assert list(fields) == [
        *("network", "width", "class_names", "mean", "std", "image_size", "sha256")
    ]


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
            lambda: load_teacher(str(path), "0123456789"),
            lambda: load_teacher(str(path), "0123456789", network="vgg_teacher"),
            lambda: load_student(path),
            lambda: load_student(path, network()),
        ):
            with pytest.raises(RunError, match=rf"{name}: expected a \.safetensors file"):
                load()
        assert not fuse.exists()


class TestHostileFiles:
    """What a file says of itself is not taken on trust: no memory is taken for it."""

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            (1 << 63).to_bytes(8, "little") + b"{}",
            (1 << 40).to_bytes(8, "little") + b"{}",
            (200_000).to_bytes(8, "little") + b"[" * 200_000,
            (2).to_bytes(8, "little") + b"{}" + bytes(1000),
        ],
    )
    def test_headers_that_lie(self, tmp_path, content):
        path = tmp_path / "student.safetensors"
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"student\.safetensors: expected"):
            load_student(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("width", 1e9),
            ("width", "1.0"),
            ("width", float("nan")),
            ("width", 10**400),
            ("image_size", -1),
            ("image_size", 2**62),
            ("class_names", "abc"),
            ("class_names", []),
            ("class_names", ["\ud800"]),
            ("mean", [0.5, 0.5, float("inf")]),
            ("std", [0.0, 0.2, 0.2]),
            ("network", ["mobilenet_student"]),
        ],
    )
    def test_cards_that_no_network_has(self, path, field, value):
        fields = {**asdict(CARD), field: value}
        save_file(load_file(path), path, {"svdistill": json.dumps(fields)})
        with pytest.raises(RunError, match="a header that svdistill wrote"):
            load_student(path)

    def test_a_card_that_is_nested_without_end(self, path):
        save_file(load_file(path), path, {"svdistill": "[" * 100_000})
        with pytest.raises(RunError, match="RecursionError"):
            load_student(path)

    def test_a_network_that_is_larger_than_its_file(self, path):
        fields = {**asdict(CARD), "network": "vgg_teacher", "width": 60.0, "sha256": ""}
        save_file(load_file(path), path, {"svdistill": json.dumps(fields)})
        with pytest.raises(RunError, match="the network that the file holds, got one of"):
            load_student(path)
