"""A teacher of other classes than the student: of five digits, for the other five."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdistill.cli import main
from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import CacheConfig
from svdistill.data import load_images
from svdistill.export import export_student
from svdistill.report import before_after_table, find_runs, write_report
from svdistill.report.comparison import compare
from svdistill.runs import read_card, read_summary
from svdistill.training import cache_knowledge, distill, read_before_after, train
from tiny_runs import KillAfter, Killed, Watching, distill_config, outcome, train_config

FIVE = {"classes": "5@0", "train_size": 100}
OTHERS = {**FIVE, "classes": "rest:5@0"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("five") / "teacher"
    train(train_config(path, **FIVE))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher):
    """A student of the other five digits, and what was said."""
    watching, path = Watching(), tmp_path_factory.mktemp("others") / "student"
    distill(distill_config(path, teacher, **OTHERS), watching)
    return path, [told[1] for told in watching.told if told[0] == "message"]


def test_the_two_halves_share_no_class():
    five, others = (load_images("digits", classes=draw) for draw in ("5@0", "rest:5@0"))
    assert sorted(five.class_names + others.class_names) == list("0123456789")
    assert five.num_classes == others.num_classes == 5


def test_a_student_learns_from_its_features(student, teacher):
    path, said = student
    own = read_card(teacher / "student.safetensors").class_names[0]
    assert said[-1] == (
        f"warning: teacher of other classes (other names, such as '{own}', which the data lacks): "
        "no accuracy"
    )
    assert not any("is right on" in text for text in said)
    assert read_summary(path).teacher_accuracy is None
    measured = read_before_after(path).teacher
    assert measured.accuracy is None
    assert measured.parameters == read_summary(teacher).parameters


@pytest.mark.parametrize("loss", ["fsp", "sp", "position_svd"])
def test_every_loss_on_features_takes_such_a_teacher(tmp_path, teacher, loss):
    run = distill(distill_config(tmp_path / "run", teacher, **OTHERS, loss=loss, epochs=1))
    assert run.teacher_accuracy is None


@pytest.mark.parametrize("loss", ["position_svd+soft_target", "dkd"])
def test_a_loss_that_reads_logits_is_refused_before_anything_is_written(
    tmp_path, teacher, loss, capsys
):
    words = ["distill", "--teacher", str(teacher), "--student", "mobilenet_student"]
    words += ["--width", "0.1", "--classes", "rest:5@0", "--output", str(tmp_path / "run")]
    assert main([*words, "--loss", loss]) == 2
    printed = capsys.readouterr().err
    assert f"the data's 5 classes, since the loss {loss} reads its logits" in printed
    assert "a --loss that reads none: svd, fsp, position_svd" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "difference"), [("3@0", "which has 5 of them"), ("rest:5@0", "other names")]
)
def test_the_difference_is_named(tmp_path, teacher, classes, difference):
    with pytest.raises(ArgumentError, match=difference):
        distill(distill_config(tmp_path / "run", teacher, classes=classes, loss="soft_target"))


def test_the_same_names_in_another_order(tmp_path, teacher):
    data = load_images("digits", classes="5@0", train_size=100)
    turned = replace(data, class_names=data.class_names[::-1])
    config = distill_config(tmp_path / "run", teacher, data="digits", train_size=None, epochs=1)
    with pytest.raises(ArgumentError, match="another order of the names"):
        distill(replace(config, loss="soft_target"), data=turned)
    assert distill(replace(config, loss="svd"), data=turned).teacher_accuracy is None
    assert distill(replace(config, output=f"{tmp_path}/b"), data=data).teacher_accuracy is not None


def test_a_teacher_that_gives_no_logits(tmp_path):
    teacher = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), Named())
    taps = {
        "teacher_taps": ["0", "1"],
        "student_taps": ["stage1", "stage2"],
        "loss": "position_svd",
    }
    config = distill_config(tmp_path / "run", "", **{**OTHERS, "epochs": 1}, **taps)
    assert distill(config, teacher=teacher).teacher_accuracy is None
    refused = distill_config(tmp_path / "no", "", **{**OTHERS, "loss": "soft_target"})
    with pytest.raises(ArgumentError, match=r"which has no logits: .*dict"):
        distill(refused, teacher=teacher)


class Named(torch.nn.Module):
    def forward(self, maps):
        return {"embedding": maps.mean((2, 3))}


def test_a_file_without_a_card_keeps_all_but_its_head(tmp_path, teacher):
    tensors = load_file(teacher / "student.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    named = {"teacher_network": "mobilenet_student", "teacher_width": 0.1}
    config = distill_config(tmp_path / "run", tmp_path / "bare.safetensors", **named)
    three = replace(config, classes="3@0", train_size=60, epochs=1)
    watching = Watching()
    assert distill(three, watching).teacher_accuracy is None
    assert any("not 3 of them" in str(told[1]) for told in watching.told)
    with pytest.raises(ArgumentError, match="not 3 of them"):
        distill(replace(three, output=f"{tmp_path}/no", loss="soft_target"))


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, teacher, student):
    stopped = distill_config(tmp_path / "stopped", teacher, **OTHERS)
    with pytest.raises(Killed):
        distill(stopped, KillAfter(1))
    distill(replace(stopped, resume=True))
    assert outcome(tmp_path / "stopped") == outcome(student[0])


class TestStores:
    def config(self, output, teacher, **changes):
        fields = {"augmentation": "none", "views": 1, "loss": "svd", **OTHERS, **changes}
        return CacheConfig(output=str(output), teacher=str(teacher), **fields)

    def test_hold_features_alone(self, tmp_path, teacher, student, capsys):
        path = tmp_path / "store"
        words = ["cache", "--teacher", str(teacher), "--views", "1", "--loss", "svd"]
        words += ["--augmentation", "none", "--train_size", "100", "--classes", "rest:5@0"]
        assert main([*words, "--output", str(path)]) == 0
        printed = capsys.readouterr().out
        assert "teacher of other classes" in printed
        assert "None" not in printed
        watching = Watching()
        config = distill_config(tmp_path / "run", "", **OTHERS, knowledge=str(path))
        summary = distill(config, watching)
        assert summary.teacher_accuracy is None
        assert ("message", "teacher of other classes: no accuracy") in watching.told
        # float16 on disk: near, not equal.
        assert abs(summary.last_accuracy - read_summary(student[0]).last_accuracy) < 5
        with pytest.raises(RunError, match="needs no more than the knowledge store holds"):
            distill(replace(config, output=f"{tmp_path}/no", loss="svd+soft_target"))

    def test_with_logits_are_refused(self, tmp_path, teacher):
        with pytest.raises(ArgumentError, match="reads its logits"):
            cache_knowledge(self.config(tmp_path / "store", teacher, loss="svd+soft_target"))
        assert not (tmp_path / "store").exists()

    def test_are_resumed(self, tmp_path, teacher):
        config = self.config(tmp_path / "store", teacher)
        assert cache_knowledge(config).manifest.complete
        assert cache_knowledge(replace(config, resume=True)).manifest.teacher_accuracy is None


def test_tables_and_pages_show_no_accuracy_of_the_teacher(tmp_path, teacher, student):
    table = before_after_table(read_before_after(student[0]))
    assert table.rows[0][1].text == "other classes"
    pairs = compare(find_runs([student[0], teacher])).pairs
    assert not any(pair.teachers for pair in pairs)
    page = write_report([teacher, student[0]], tmp_path / "report.html").read_text()
    assert "</html>" in page


def test_the_student_is_exported(student, tmp_path):
    report = export_student(student[0], "torch", tmp_path / "student.pt2")
    assert len(report.metadata.class_names) == 5
