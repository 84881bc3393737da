import pytest
import torch

from picture_files import in_turn, noise, write_folder
from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import load_images
from svdistill.networks import build_network
from svdistill.runs.records import read_records, read_summary
from svdistill.training import evaluate, train
from svdistill.training.evaluation import own_network
from tiny_runs import snapshot, train_config

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what no GPU means")


class TestEvaluate:
    @pytest.mark.parametrize("data", ["digits", None])
    def test_agrees_with_the_run(self, teacher_run, data):
        summary, last = read_summary(teacher_run), read_records(teacher_run)[-1]
        found = evaluate(teacher_run, data)
        assert (found.accuracy, found.loss) == (summary.last_accuracy, last.test_loss)
        assert found.images == 719

    def test_of_the_best_epoch(self, teacher_run):
        summary = read_summary(teacher_run)
        best = evaluate(teacher_run / "student-best.safetensors", "digits")
        assert best.accuracy == summary.best_accuracy

    def test_on_images_of_the_size_it_was_trained_on(self, tmp_path):
        run = tmp_path / "run"
        train(train_config(run, image_size=8, epochs=1, classes_every=2))
        assert evaluate(run).loss == read_records(run)[-1].test_loss

    def test_on_other_classes(self, tmp_path, teacher_run):
        train(train_config(tmp_path / "run", classes_every=3, epochs=1))
        # All digits are there; those that the network knows are taken, by their names.
        assert evaluate(tmp_path / "run", "digits") == evaluate(tmp_path / "run")
        others = write_folder(tmp_path / "others", noise(8), in_turn(8))
        with pytest.raises(RunError, match="none named '0'"):
            evaluate(tmp_path / "run", f"folder:{others}")

    def test_changes_nothing(self, teacher_run):
        before = snapshot(teacher_run)
        evaluate(teacher_run)
        assert snapshot(teacher_run) == before

    def test_of_nothing(self, tmp_path):
        with pytest.raises(RunError, match="expected a run directory or a weights file"):
            evaluate(tmp_path / "absent", "digits")

    def test_of_images_that_are_given(self, teacher_run):
        images = load_images("digits", image_size=16)
        assert evaluate(teacher_run, images) == evaluate(teacher_run)

    def test_of_a_network_that_is_given(self, teacher_run):
        network = build_network("mobilenet_student", 10, 0.1)
        assert evaluate(teacher_run, network=network) == evaluate(teacher_run)
        other = build_network("mobilenet_student", 10, 0.2)
        with pytest.raises(RunError, match="the weights of PaperNetwork as it was built"):
            evaluate(teacher_run, network=other)

    def test_of_a_network_that_is_named(self, teacher_run):
        assert own_network(teacher_run, "mobilenet_student").head[-1].out_features == 10

    @needs_no_gpu
    def test_on_a_gpu_that_is_not_there(self, teacher_run):
        with pytest.raises(ArgumentError, match=r"device: .*torch finds no GPU"):
            evaluate(teacher_run, device="cuda")
