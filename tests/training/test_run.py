import dataclasses
import json
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from projecting_loss import LearnedTemperatureLoss, ProjectingLoss
from svdistill.common.errors import ArgumentError, RunError, SVDistillError
from svdistill.losses import (
    FSPLoss,
    LossSpec,
    SimilarityPreservingLoss,
    SoftTargetLoss,
    SumLoss,
    SVDLoss,
    registry,
)
from svdistill.runs import load_student
from svdistill.runs.records import read_records, read_summary
from svdistill.training import distill, train
from svdistill.training.setup import build_losses
from tiny_runs import (
    Bomb,
    KillAfter,
    Killed,
    Watching,
    distill_config,
    outcome,
    snapshot,
    train_config,
    weights,
)

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what no GPU means")


def flops_by_hand():
    """Of the tiny MobileNet student on a digit: twice the multiply-adds."""
    stem, widths, sizes = 8, [12, 24, 52, 104], [16, 8, 4, 2]
    multiplied = 9 * 3 * stem * 16 * 16
    channels = stem
    for width, size in zip(widths, sizes, strict=True):
        multiplied += (9 * channels + channels * width) * size * size
        channels = width
    return 2 * (multiplied + channels * 10)


class TestSummary:
    def test_of_a_training(self, teacher_run):
        summary = read_summary(teacher_run)
        assert (summary.kind, summary.network, summary.width) == ("train", "mobilenet_student", 0.1)
        assert (summary.loss, summary.teacher_accuracy) == (None, None)
        assert (summary.seed, summary.epochs) == (7, 3)
        assert summary.flops == flops_by_hand()
        student = load_student(teacher_run)
        assert summary.parameters == sum(parameter.numel() for parameter in student.parameters())

    def test_of_a_distillation(self, student_run):
        summary = read_summary(student_run)
        assert (summary.kind, summary.loss, summary.epochs) == ("distill", "svd", 3)
        assert 0 <= summary.teacher_accuracy <= 100
        assert summary.directory == str(student_run)

    def test_a_teacher_sees_images_as_it_was_trained_on(self, tmp_path, teacher_run):
        few = distill_config(tmp_path / "run", teacher_run, train_size=50, epochs=1)
        taught = distill(few).teacher_accuracy
        assert taught == read_summary(teacher_run).last_accuracy

    def test_of_two_stages(self, two_stage_run):
        assert read_summary(two_stage_run).epochs == 4

    def test_is_what_the_call_returns(self, tmp_path):
        assert train(train_config(tmp_path / "run", epochs=1)) == read_summary(tmp_path / "run")


class TestTeachers:
    """A run from one epoch of distillation tells whether the teacher was the one meant."""

    def distilled(self, tmp_path, teacher, **changes):
        # The teacher's images are normalised by the student's data: to compare, take the same.
        config = distill_config(tmp_path / "run", teacher, epochs=1, dev_fraction=0.2, **changes)
        return distill(config).teacher_accuracy

    def test_from_a_run_directory(self, tmp_path, teacher_run):
        assert self.distilled(tmp_path, teacher_run) == read_summary(teacher_run).last_accuracy

    def test_from_the_best_epochs_file(self, tmp_path, teacher_run):
        best = teacher_run / "student-best.safetensors"
        assert self.distilled(tmp_path, best) == read_summary(teacher_run).best_accuracy

    def test_from_another_tools_file(self, tmp_path, teacher_run):
        save_file(load_file(teacher_run / "student.safetensors"), tmp_path / "foreign.safetensors")
        accuracy = self.distilled(
            tmp_path,
            tmp_path / "foreign.safetensors",
            teacher_network="mobilenet_student",
            teacher_width=0.1,
        )
        assert accuracy == read_summary(teacher_run).last_accuracy

    def test_from_code(self, tmp_path, monkeypatch, teacher_run):
        (tmp_path / "teachers_of_mine.py").write_text(
            "import svdistill\n"
            f"def best():\n    return svdistill.load_student({str(teacher_run)!r}).train()\n"
            "def wrong():\n    return svdistill.build_network('mobilenet_student', 7, 0.1)\n"
            "def plain():\n    from torch import nn\n"
            "    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3),\n"
            "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes))\n"
            "num_classes = 10\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "teachers_of_mine", raising=False)
        accuracy = self.distilled(tmp_path, "teachers_of_mine:best")
        assert accuracy == read_summary(teacher_run).last_accuracy

        def refuses(match, **fields):
            config = distill_config(tmp_path / "none", **fields)
            with pytest.raises(ArgumentError, match=match):
                distill(config)
            assert not (tmp_path / "none").exists()

        wrong = {"teacher": "teachers_of_mine:wrong", "loss": "soft_target"}
        refuses(r"^teacher: expected one of the data's 10 classes", **wrong)
        taps = {"teacher_taps": ["0", "2"], "student_taps": ["stage1", "stage2"]}
        shutil.rmtree(tmp_path / "run")
        self.distilled(tmp_path, "teachers_of_mine:plain", **taps)

    def test_is_not_changed_by_being_one(self, tmp_path, teacher_run):
        before = snapshot(teacher_run)
        self.distilled(tmp_path, teacher_run)
        assert snapshot(teacher_run) == before


class TestRefusesBeforeAnythingIsWritten:
    def refuses(self, command, config, match, error=SVDistillError):
        with pytest.raises(error, match=match):
            command(config)

    @pytest.mark.parametrize(
        ("field", "value", "match"),
        [
            ("teacher", "absent", "^teacher: .*'absent', which does not exist"),
            ("teacher_taps", ["stage1", "stage9"], r"'stage9'.*did you mean"),
            ("student_taps", ["stage1"], "got 4 and 1"),
            ("weights", "absent.safetensors", r"^absent\.safetensors: "),
            ("weights", "pretrained", "^weights: "),
            ("network", "timm:any", "^width: .*none of the paper"),
            ("num_vectors", 0, "^num_vectors: "),
            ("beta", -1.0, "^beta: "),
            ("temperature", 0.0, "^temperature: "),
            ("clip", "nrom", "^clip: .*'norm'"),
            ("gradient", "approximate", "^gradient: "),
            ("loss", "soft_targe", "^loss: .*'soft_target'"),
            ("epochs", 0, "^epochs: "),
            ("network", "resnet", "vgg_teacher"),
            ("data", "mnist", "^data: "),
            ("train_size", 5, "^train_size: "),
            ("precision", "fp16", "^precision: .*use --precision bf16"),
        ],
    )
    def test_values_that_cannot_work(self, tmp_path, teacher_run, field, value, match):
        if field == "precision" and torch.cuda.is_available():
            pytest.skip("fp16 works there")
        config = distill_config(tmp_path / "run", teacher_run)
        self.refuses(distill, dataclasses.replace(config, **{field: value}), match)
        assert not (tmp_path / "run").exists()

    @needs_no_gpu
    def test_a_gpu_that_is_not_there(self, tmp_path):
        config = train_config(tmp_path / "run", device="cuda")
        self.refuses(train, config, "^device: .*torch finds no GPU.*--device cpu", ArgumentError)
        assert not (tmp_path / "run").exists()

    def test_a_pickle_as_teacher(self, tmp_path):
        fuse = tmp_path / "exploded"
        for name in ("teacher.pt", "teacher.safetensors"):
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(fuse)))
            config = distill_config(tmp_path / "run", tmp_path / name)
            self.refuses(distill, config, r"expected a \.safetensors file", RunError)
        assert not fuse.exists()
        assert not (tmp_path / "run").exists()


class TestNeverOverwrites:
    def refuses(self, directory, config, match):
        before = snapshot(directory)
        with pytest.raises(RunError, match=match):
            train(config)
        assert snapshot(directory) == before

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_finished_run(self, tmp_path, teacher_run, resume):
        shutil.copytree(teacher_run, tmp_path / "run")
        config = train_config(tmp_path / "run", seed=7, epochs=3, dev_fraction=0.2, resume=resume)
        self.refuses(tmp_path, config, "a finished run")

    def test_an_unfinished_run(self, tmp_path):
        with pytest.raises(Killed):
            train(train_config(tmp_path / "run"), KillAfter(1))
        self.refuses(tmp_path, train_config(tmp_path / "run"), "continue it with --resume")
        changed = train_config(tmp_path / "run", batch_size=32, resume=True)
        self.refuses(tmp_path, changed, "^batch_size: expected 64 as in .*got 32")

    @pytest.mark.parametrize("resume", [True, False])
    def test_something_else(self, tmp_path, resume):
        (tmp_path / "notes.txt").write_text("mine")
        self.refuses(tmp_path, train_config(tmp_path, resume=resume), "something else")

    def test_what_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        self.refuses(tmp_path, train_config(tmp_path / "file" / "run"), "Not a directory")

    def test_where_a_pickle_bomb_lies_in_wait(self, tmp_path):
        run, fuse = tmp_path / "run", tmp_path / "exploded"
        with pytest.raises(Killed):
            train(train_config(run), KillAfter(1))
        torch.save({"place": {}, "states": Bomb(fuse)}, run / "checkpoint.pt")
        with pytest.raises(RunError, match=r"checkpoint\.pt: expected a checkpoint"):
            train(train_config(run, resume=True))
        assert not fuse.exists()


@pytest.mark.parametrize("loss", ["fsp", "soft_target", "svd+soft_target", "fsp+soft_target"])
def test_every_loss_trains(tmp_path, teacher_run, loss):
    clip = "norm" if loss == "fsp" else "none"
    summary = distill(distill_config(tmp_path / "run", teacher_run, loss=loss, clip=clip, epochs=1))
    (record,) = read_records(tmp_path / "run")
    assert summary.loss == loss
    assert record.transfer_loss > 0
    assert record.clipped_norm == pytest.approx(record.transfer_norm) or clip == "norm"


def test_in_two_stages_an_added_soft_target_comes_with_the_task(tmp_path, teacher_run):
    options = {"epochs": 1, "transfer_epochs": 1, "clip": "amortised"}
    records = {}
    for loss in ("svd", "svd+soft_target"):
        distill(distill_config(tmp_path / loss, teacher_run, loss=loss, **options))
        records[loss] = read_records(tmp_path / loss)
    (first, alone), (same, with_soft) = records["svd"], records["svd+soft_target"]
    assert first.stage == same.stage == "transfer"
    assert first.transfer_loss == same.transfer_loss
    assert first.test_loss == same.test_loss
    assert alone.stage == with_soft.stage == "task"
    assert alone.transfer_loss is None
    assert 0 < with_soft.transfer_loss < same.transfer_loss
    assert alone.test_loss != with_soft.test_loss


def test_losses_are_built_as_configured():
    def build(**fields):
        return build_losses(distill_config("run", "teacher", **fields))

    svd, none = build(num_vectors=3, beta=2.0, gradient="poster")
    assert isinstance(svd, SVDLoss)
    assert (svd.num_vectors, svd.beta, svd.gradient, svd.reduction) == (3, 2.0, "poster", "sum")
    assert none is None
    assert isinstance(build(loss="fsp").clipped, FSPLoss)
    soft = build(loss="soft_target", temperature=7.0).clipped
    assert isinstance(soft, SoftTargetLoss)
    assert soft.temperature == 7.0
    clipped, unclipped = build(loss="svd+soft_target", soft_target_weight=0.9)
    assert isinstance(clipped, SVDLoss)
    assert isinstance(unclipped, SumLoss)
    assert [type(part) for part in unclipped.losses] == [SoftTargetLoss]
    assert unclipped.weights == (0.9,)


def test_a_store_keeps_what_all_losses_read():
    both = build_losses(distill_config("run", "teacher", loss="svd+soft_target")).whole
    assert isinstance(both, SumLoss)
    images = [torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)]
    knowledge = both.extract(images, torch.rand(2, 5))
    for loss in build_losses(distill_config("run", "teacher", loss="svd+soft_target")):
        assert loss is not None
        loss.select(knowledge)


@pytest.mark.parametrize("transfer_epochs", [0, 1])
def test_bf16_trains_in_lower_precision(tmp_path, teacher_run, transfer_epochs):
    fields = {"transfer_epochs": transfer_epochs, "epochs": 1}
    for precision in ("bf16", "float32"):
        config = distill_config(tmp_path / precision, teacher_run, precision=precision, **fields)
        distill(config)
    low, high = weights(tmp_path / "bf16"), weights(tmp_path / "float32")
    assert all(tensor.isfinite().all() for tensor in low.values())
    assert low["stem.0.weight"].dtype == torch.float32
    assert not low["stem.0.weight"].equal(high["stem.0.weight"])
    torch.testing.assert_close(low["stem.0.weight"], high["stem.0.weight"], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("optimizer", "counted"), [("sgd", True), ("adamw", False)])
def test_only_coupled_weight_decay_counts_in_the_clip(tmp_path, teacher_run, optimizer, counted):
    norms = []
    for decay in (0.0, 1.0):
        fields = {"optimizer": optimizer, "weight_decay": decay, "batch_size": 200, "epochs": 1}
        distill(distill_config(tmp_path / str(decay), teacher_run, **fields))
        norms.append(read_records(tmp_path / str(decay))[0].clipped_norm)  # of the only step
    assert (norms[1] > 1.1 * norms[0]) == counted
    assert (norms[1] == norms[0]) != counted


def test_where_the_teacher_lies_makes_no_difference(tmp_path, teacher_run, student_run):
    shutil.copytree(teacher_run, tmp_path / "moved")
    distill(distill_config(tmp_path / "run", tmp_path / "moved", epochs=3))
    assert outcome(tmp_path / "run") == outcome(student_run)


def test_a_loss_given_as_an_object_takes_batches_in_parts_unless_it_relates_images(
    tmp_path, teacher_run
):
    config = distill_config(tmp_path / "run", teacher_run, epochs=1, accumulate=2)
    with pytest.raises(ArgumentError, match=r"^loss: expected losses that relate no images"):
        distill(config, loss=SimilarityPreservingLoss())
    assert not (tmp_path / "run").exists()
    assert distill(config, loss=SVDLoss()).loss == "object:SVDLoss"


class Addressed(SVDLoss):
    """Its text has an address, which is another one in each process."""

    def extra_repr(self):
        return f"{super().extra_repr()}, of=<loss at {id(self):#x}>"


def test_a_loss_given_as_an_object_is_resumed_with_the_same_options(tmp_path, teacher_run):
    config, loss = distill_config(tmp_path / "run", teacher_run), Addressed()
    with pytest.raises(Killed):
        distill(config, KillAfter(1), loss=loss)
    config = dataclasses.replace(config, resume=True)
    with pytest.raises(RunError, match=r"^loss: expected .*num_vectors=1, .*got .*_vectors=2,"):
        distill(config, loss=Addressed(2))
    assert distill(config, loss=Addressed()).loss == "object:Addressed"


def test_an_object_that_has_made_its_modules_resumes_its_run(tmp_path, teacher_run):
    config, loss = distill_config(tmp_path / "run", teacher_run), ProjectingLoss()
    with pytest.raises(Killed):
        distill(config, KillAfter(1), loss=loss)
    distill(dataclasses.replace(config, resume=True), loss=loss)


@pytest.mark.parametrize("loss", ["projecting_loss:LearnedTemperatureLoss", "svd+learned"])
@pytest.mark.parametrize("transfer_epochs", [0, 1])
def test_a_loss_on_logits_may_train_modules(
    tmp_path, teacher_run, monkeypatch, loss, transfer_epochs
):
    spec = LossSpec("learned", LearnedTemperatureLoss, "learned", clipped=False)
    monkeypatch.setitem(registry._SPECS, "learned", spec)
    options = {"loss": loss, "transfer_epochs": transfer_epochs}
    distill(distill_config(tmp_path / "whole", teacher_run, **options))
    config = distill_config(tmp_path / "run", teacher_run, **options)
    with pytest.raises(Killed):
        distill(config, KillAfter(1 + transfer_epochs))
    distill(dataclasses.replace(config, resume=True))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_reporter_hears_everything(tmp_path, teacher_run):
    watching = Watching()
    distill(distill_config(tmp_path / "run", teacher_run, epochs=1, transfer_epochs=1), watching)
    kinds = [told[0] for told in watching.told]
    assert kinds[:8] == ["message"] * 7 + ["start"]
    counts, images, taps, loss, empty, teacher, poor = (text for _, text in watching.told[:7])
    assert counts == "digits: 200 training images, 719 test images, 10 classes: 0, 1, 2, 3, 4, ..."
    assert images.startswith("images 16x16, mean 0.")
    assert images.endswith(f"({teacher_run}'s)")
    assert taps.count("the paper's") == 4
    assert loss == "loss svd"
    assert empty == (
        "not given, so by default: num_vectors 1, beta 8.0, gradient exact, task_weight 1.0, "
        "transfer_weight 1.0, clip amortised"
    )
    assert teacher.startswith("teacher: ")
    assert poor.startswith("warning: the teacher is right on ")  # it was trained for a moment
    assert watching.told[7] == ("start", "run", 8, 0)
    assert kinds.count("step") == 8
    assert [told[1:] for told in watching.told if told[0] == "epoch"] == [
        ("transfer", 0),
        ("task", 1),
    ]


def test_the_environment_is_noted(student_run):
    noted = json.loads((student_run / "environment.json").read_text())
    assert noted["packages"]["torch"] == torch.__version__


def test_images_may_be_streamed(tmp_path):
    """Channel statistics come from a sample then; of so few images it is all of them."""
    summaries = [
        train(train_config(tmp_path / str(limit), epochs=1, memory_limit_gb=limit))
        for limit in (0.0, 8.0)
    ]
    first, second = (weights(summary.directory) for summary in summaries)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert summaries[0].last_accuracy == summaries[1].last_accuracy
