"""Runs of networks that are none of the paper's: of libraries, of one's own code, as objects."""

import shutil
import sys
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import CacheConfig, DistillConfig
from svdistill.data import load_images
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.runs import load_student
from svdistill.runs.records import read_records, read_summary
from svdistill.runs.weights import read_card
from svdistill.training import cache_knowledge, distill, evaluate, train
from tiny_runs import KillAfter, Killed, Watching, outcome, train_config

prepare_torchvision()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")

FEW = {"train_size": 64, "epochs": 1, "batch_size": 32, "augmentation": "none"}


def config(output, **changes):
    return train_config(output, **{**FEW, "width": 1.0, **changes})


def distillation(output, teacher, **changes):
    fields = {"data": "digits", "learning_rate": 0.05, "loss": "svd", **FEW, **changes}
    return DistillConfig(output=str(output), teacher=str(teacher), **fields)


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch):
    def hub(repository):
        raise AssertionError(f"the hub was asked for {repository}")

    for zoo in ("timm_models", "transformers_models"):
        monkeypatch.setattr(f"svdistill.networks.{zoo}.require_hub", hub)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vision transformer of two layers, as transformers saves it."""
    path = tmp_path_factory.mktemp("hf") / "vit"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit = transformers.ViTConfig(**sizes, intermediate_size=32, image_size=32, patch_size=4)
    transformers.AutoModelForImageClassification.from_config(vit).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A finished run of timm's smallest network."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    train(config(path, network="timm:test_resnet", epochs=2))
    return path


def messages(watching):
    return [told[1] for told in watching.told if told[0] == "message"]


class TestLibraries:
    def test_a_run_is_loaded_again_and_evaluated(self, teacher):
        card = read_card(teacher / "student.safetensors")
        assert (card.network, card.image_size, card.config) == ("timm:test_resnet", 16, "")
        loaded = load_student(teacher)
        assert type(loaded).__module__.startswith("timm.")
        assert evaluate(teacher).loss == read_records(teacher)[-1].test_loss
        assert read_summary(teacher).network == "timm:test_resnet"

    def test_published_weights_are_trained_on_other_classes(self, tmp_path, monkeypatch):
        published = timm.create_model("test_resnet").state_dict()
        save_file(published, tmp_path / "published.safetensors")
        monkeypatch.setattr(
            "svdistill.networks.timm_models.in_hub_cache",
            lambda repository, file: tmp_path / "published.safetensors",
        )
        watching = Watching()
        options = {"weights": "pretrained", "image_size": 16, "learning_rate": 1e-9}
        train(config(tmp_path / "run", network="timm:test_resnet", **options), watching)
        _, images, head = messages(watching)
        assert images == (
            "images 16x16 (as asked for), mean 0.500 0.500 0.500, std 0.500 0.500 0.500 "
            "(timm:test_resnet's own)"
        )
        assert head.startswith("timm:test_resnet: its head for 1000 classes is left out, one for")
        trained = load_file(tmp_path / "run" / "student.safetensors")
        torch.testing.assert_close(trained["conv1.0.weight"], published["conv1.0.weight"])

    def test_a_run_starts_from_anothers_weights(self, tmp_path, teacher):
        watching = Watching()
        options = {"network": "timm:test_resnet", "weights": str(teacher), "learning_rate": 1e-9}
        train(config(tmp_path / "same", **options), watching)
        ours, theirs = (load_file(p / "student.safetensors") for p in (tmp_path / "same", teacher))
        torch.testing.assert_close(ours["fc.weight"], theirs["fc.weight"])
        assert not any("anew" in text for text in messages(watching))
        train(config(tmp_path / "fewer", **options, classes_every=2), watching)
        said = messages(watching)[-1]
        assert said == f"{teacher}: fc.weight, fc.bias of other classes start anew"
        assert load_file(tmp_path / "fewer" / "student.safetensors")["fc.weight"].shape[0] == 5

    def test_transformers_are_loaded_without_their_folder(self, tmp_path, teacher, folder):
        copy = shutil.copytree(folder, tmp_path / "vit")
        watching = Watching()
        run = tmp_path / "run"
        distill(distillation(run, teacher, network=f"hf:{copy}"), watching)
        taps = messages(watching)[2]
        assert "vit.layers.0" in taps or "vit.encoder.layer.0" in taps
        assert "layer2" in taps
        shutil.rmtree(copy)
        network = load_student(run)
        tensors = load_file(run / "student.safetensors")
        assert set(tensors) == set(network.state_dict())  # no adapters among them
        assert read_card(run / "student.safetensors").config.startswith("{")
        assert evaluate(run).loss == read_records(run)[-1].test_loss

    @pytest.mark.parametrize("loss", ["svd", "fsp", "position_svd", "svd+soft_target"])
    def test_every_loss_trains_a_pair_of_two_libraries(self, tmp_path, teacher, loss):
        watching = Watching()
        options = {"network": "torchvision:squeezenet1_1", "loss": loss, "image_size": 32}
        summary = distill(distillation(tmp_path / "run", teacher, **options), watching)
        (record,) = read_records(tmp_path / "run")
        assert record.transfer_loss > 0
        assert summary.loss == loss
        said = any(" adapter " in text for text in messages(watching))
        assert said == (loss != "position_svd")
        assert load_student(tmp_path / "run") is not None

    def test_a_run_goes_on_as_if_it_had_never_stopped(self, tmp_path, teacher, folder):
        network = {"network": f"hf:{folder}", "epochs": 3}
        whole, stopped = (distillation(tmp_path / n, teacher, **network) for n in ("a", "b"))
        distill(whole)
        with pytest.raises(Killed):
            distill(stopped, KillAfter(1))
        distill(replace(stopped, resume=True))
        assert outcome(tmp_path / "a") == outcome(tmp_path / "b")

    def test_a_teacher_of_other_classes_is_told_what_to_do(self, tmp_path):
        fields = {"network": "timm:test_resnet", "classes_every": 2, "image_size": 16}
        fields["loss"] = "soft_target"
        with pytest.raises(ArgumentError) as caught:
            distill(distillation(tmp_path / "run", "timm:resnet18", **fields))
        assert str(caught.value) == (
            "teacher: expected one of the data's 5 classes, since the loss soft_target reads its "
            "logits, got timm:resnet18, which has 1000 of them; train it on them first, "
            "`svdistill train --network timm:resnet18 --weights pretrained --data digits "
            "--classes_every 2 --output runs/teacher`, then give --teacher runs/teacher; or give a "
            "--loss that reads none: svd, fsp, position_svd, position_gram, cosine, at, sp"
        )
        assert not (tmp_path / "run").exists()

    def test_a_teacher_of_a_librarys_name_and_a_file(self, tmp_path, teacher, folder):
        weights = {"teacher_weights": str(teacher / "student.safetensors")}
        options = {"network": "timm:test_resnet", "loss": "soft_target", "clip": "none"}
        run = distill(distillation(tmp_path / "run", "timm:test_resnet", **weights, **options))
        assert run.teacher_accuracy == read_summary(teacher).last_accuracy
        few = {**options, **weights, "classes_every": 2}
        with pytest.raises(ArgumentError, match=r"^teacher: .*5 classes.*--weights .*safetensors "):
            distill(distillation(tmp_path / "few", "timm:test_resnet", **few))

    def test_a_network_that_refuses_the_images_stops_before_a_run(self, tmp_path, folder):
        options = {"network": f"hf:{folder}", "weights": "pretrained", "image_size": 24}
        with pytest.raises(ArgumentError, match=r"^network: .*3, 24, 24\].*--image_size"):
            train(config(tmp_path / "run", **options))
        assert not (tmp_path / "run").exists()


class TestStores:
    def test_teach_students_of_other_channels(self, tmp_path, teacher, folder):
        options = {"train_size": 64, "augmentation": "none", "teacher_taps": ["layer1", "layer2"]}
        path = str(tmp_path / "store")
        store = CacheConfig(output=path, teacher=str(teacher), loss="svd", views=1, **options)
        known = cache_knowledge(store).manifest
        assert known.tap_shapes == ((32, 4, 4), (48, 2, 2))
        run = tmp_path / "run"
        options = {"knowledge": str(tmp_path / "store"), "network": f"hf:{folder}"}
        watching = Watching()
        distill(distillation(run, "", **options), watching)
        assert "for the store's tap" in messages(watching)[2]
        assert read_records(run)[0].transfer_loss > 0
        assert set(load_file(run / "student.safetensors")) == set(load_student(run).state_dict())


class Logits(NamedTuple):
    scores: Tensor
    more: Tensor


class Wrapped(nn.Module):
    """A small network that returns its logits in a wrapping."""

    def __init__(self, wrap=lambda logits: logits, channels=6):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, 10))
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.head(self.second(self.first(images))))


WRAPPINGS = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, None),
    "named": lambda logits: Logits(logits, logits),
    "dictionary": lambda logits: {"loss": None, "logits": logits},
    "model_output": lambda logits: transformers.modeling_outputs.ImageClassifierOutput(
        logits=logits
    ),
}


class TestObjects:
    @pytest.mark.parametrize("wrapping", WRAPPINGS)
    def test_train_distill_and_are_evaluated_whatever_they_return(self, tmp_path, wrapping):
        torch.manual_seed(0)
        wrap = WRAPPINGS[wrapping]
        teacher, student = Wrapped(wrap, 8), Wrapped(wrap)
        fields = config(tmp_path / "teacher")
        train(fields, network=teacher)
        loss = {"loss": "svd+soft_target"}
        distill(distillation(tmp_path / "run", "", **loss), teacher=teacher, student=student)
        found = evaluate(tmp_path / "run", network=Wrapped(wrap))
        assert found.loss == read_records(tmp_path / "run")[-1].test_loss
        assert read_summary(tmp_path / "run").network == "object"

    def test_are_noted_as_such(self, tmp_path):
        fields = {**FEW, "train_size": None}
        data = load_images("digits", train_size=64)
        run = tmp_path / "run"
        train(config(run, **fields), network=Wrapped(), data=data)
        noted = (run / "config.yaml").read_text()
        assert "network: object" in noted
        assert "data: object" in noted
        assert read_card(run / "student.safetensors").network == "object"
        with pytest.raises(RunError, match=r"got 'object'.*load_student\(path, network="):
            load_student(run)
        loaded = load_student(run, Wrapped())
        assert not loaded.training
        with pytest.raises(ArgumentError, match=r"^data: "):
            evaluate(run, network=Wrapped())
        assert evaluate(run, data, network=Wrapped()).images == len(data.test)

    def test_go_on_where_they_were_stopped(self, tmp_path):
        def run(output, *reporter, **changes):
            torch.manual_seed(0)
            train(config(tmp_path / output, epochs=3, **changes), *reporter, network=Wrapped())

        run("whole")
        with pytest.raises(Killed):
            run("stopped", KillAfter(2))
        run("stopped", resume=True)
        assert outcome(tmp_path / "whole") == outcome(tmp_path / "stopped")

    def test_of_other_classes_stop_before_a_run(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"^network: .*logits \[images, 5\].*\(2, 10\)"):
            train(config(tmp_path / "run", classes_every=2), network=Wrapped())
        few = distillation(tmp_path / "run", "", classes_every=2, loss="soft_target")
        with pytest.raises(
            ArgumentError, match=r"^teacher: .*logits \(2, 10\) in place of \(2, 5\)"
        ):
            distill(few, teacher=Wrapped(), student=Wrapped())
        assert not (tmp_path / "run").exists()


def test_code_of_ones_own_is_trained_and_named_again_by_its_user(tmp_path, monkeypatch):
    (tmp_path / "nets_to_train.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    layers = [nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]\n"
        "    return nn.Sequential(*layers, nn.Linear(24, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train(config(run, network="nets_to_train:build"))
    with pytest.raises(RunError, match=r"'nets_to_train:build'.*--teacher_network module:attr"):
        distill(distillation(tmp_path / "student", run, network="timm:test_resnet"))
    taught = {"teacher_network": "nets_to_train:build", "loss": "soft_target", "clip": "none"}
    network = {"network": "timm:test_resnet"}
    summary = distill(distillation(tmp_path / "student", run, **taught, **network))
    assert summary.teacher_accuracy == read_summary(run).last_accuracy
    del sys.modules["nets_to_train"]
