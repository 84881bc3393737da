import dataclasses
import functools
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svdistill.common.errors import RunError, TrainingError
from svdistill.data import load_images
from svdistill.networks import build_network
from svdistill.runs.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from svdistill.runs.records import read_records, read_summary
from svdistill.runs.weights import read_card, weights_file
from svdistill.training import distill, train, trainer as trainer_module
from svdistill.training.metrics import Evaluation
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import derive_seed
from svdistill.training.results import Predictions
from svdistill.training.step import DistillStep
from tiny_runs import (
    RANDOM,
    KillAfter,
    KillAtStep,
    Killed,
    Watching,
    distill_config,
    outcome,
    snapshot,
    train_config,
    weights,
)

LONGER = {**RANDOM, "epochs": 3}


def fresh_weights(seed=0):
    torch.manual_seed(derive_seed(seed, "weights"))
    return build_network("mobilenet_student", 10, 0.1)


def trained_by_hand(network, stage, epochs, batch_size=64, normalised_as=None):
    """The loop again, from its description: SGD on the cross-entropy, the paper's schedule."""
    data = load_images("digits", train_size=200)
    statistics = data if normalised_as is None else read_card(weights_file(normalised_as))
    mean, std = (
        torch.tensor(numbers)[:, None, None] for numbers in (statistics.mean, statistics.std)
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    step, steps = 0, epochs * 4
    for epoch in range(epochs):
        order = torch.Generator().manual_seed(derive_seed(0, "order", stage, epoch))
        for rows in torch.randperm(200, generator=order).split(batch_size):
            factor = 0.01 if step >= 0.75 * steps else 0.1 if step >= 0.5 * steps else 1
            optimizer.param_groups[0]["lr"] = 0.05 * factor
            images = (data.train.images[rows].float() / 255 - mean) / std
            optimizer.zero_grad()
            F.cross_entropy(network(images), data.train.labels[rows]).backward()
            optimizer.step()
            step += 1
    return network.state_dict()


def assert_close(actual, expected):
    assert set(actual) == set(expected)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)


class TestTraining:
    def test_is_the_loop_that_one_would_write_by_hand(self, tmp_path):
        train(train_config(tmp_path / "run"))
        network = fresh_weights()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        expected = trained_by_hand(network, stage=0, epochs=2)
        assert not torch.allclose(before["head.2.weight"], expected["head.2.weight"], atol=1e-2)
        assert_close(weights(tmp_path / "run"), expected)

    def test_learns(self, tmp_path):
        summary = train(
            train_config(
                tmp_path / "run", width=0.25, train_size=None, epochs=3, schedule="one_cycle"
            )
        )
        assert summary.last_accuracy > 80

    def test_repeats_itself_bit_for_bit(self, tmp_path):
        runs = [tmp_path / name for name in "ab"]
        for run in runs:
            train(train_config(run, **LONGER))
            torch.rand(7)  # the global generator's state must not matter
        assert outcome(runs[0]) == outcome(runs[1])

    def test_depends_on_the_seed(self, tmp_path, teacher_run):
        train(train_config(tmp_path / "run", seed=8, epochs=3, dev_fraction=0.2))
        assert outcome(tmp_path / "run")[0] != outcome(teacher_run)[0]

    def test_tells_the_clip_which_epoch_it_is(self, tmp_path, teacher_run, monkeypatch):
        seen, call = [], DistillStep.__call__

        def watched(step, batch, progress):
            seen.append(progress)
            return call(step, batch, progress)

        monkeypatch.setattr(DistillStep, "__call__", watched)
        distill(distill_config(tmp_path / "run", teacher_run))
        assert seen == [0] * 4 + [1] * 4

    def test_bounds_the_gradient(self, tmp_path):
        moved = {}
        for bound in (1e-3, None):
            run = tmp_path / str(bound)
            train(
                train_config(
                    run, max_grad_norm=bound, weight_decay=0.0, schedule="constant", epochs=1
                )
            )
            start, end = dict(fresh_weights().named_parameters()), weights(run)
            squares = [(end[name] - start[name].detach()).square().sum() for name in start]
            moved[bound] = torch.stack(squares).sum().sqrt().item()
        # Each step's gradient moves the weights by at most (1 + 0.9 + 0.81 + ...) rates in all.
        assert 0 < moved[1e-3] <= 0.05 * 1e-3 * 4 * 10
        assert moved[None] > 10 * moved[1e-3]


class TestTwoStages:
    def test_the_first_trains_the_transfer_only(self, tmp_path, teacher_run):
        run = tmp_path / "run"
        config = distill_config(run, teacher_run, transfer_epochs=2, weight_decay=0.1)
        with pytest.raises(Killed):
            distill(config, KillAfter(2))
        start, end = fresh_weights().state_dict(), weights(run)
        head = [name for name in start if name.startswith("head")]
        assert all(end[name].equal(start[name]) for name in head)
        body = [name for name in start if name.endswith("weight") and name not in head]
        assert not any(end[name].equal(start[name]) for name in body)

    def test_the_second_trains_the_task_only(self, tmp_path, teacher_run, two_stage_run):
        run = tmp_path / "run"
        config = distill_config(run, teacher_run, transfer_epochs=1)
        with pytest.raises(Killed):
            distill(config, KillAfter(1))
        network = fresh_weights()
        network.load_state_dict(weights(run))
        expected = trained_by_hand(network, stage=1, epochs=2, normalised_as=teacher_run)
        distill(dataclasses.replace(config, resume=True))
        assert_close(weights(run), expected)

    def test_the_first_lowers_the_transfer_loss_and_the_second_the_task_loss(self, two_stage_run):
        records = read_records(two_stage_run)
        assert [record.stage for record in records] == ["transfer", "transfer", "task", "task"]
        assert [record.epoch for record in records] == [0, 1, 2, 3]
        assert records[1].transfer_loss < records[0].transfer_loss
        assert [record.transfer_loss for record in records[2:]] == [None, None]
        assert records[3].task_loss < records[1].task_loss

    def test_each_has_a_schedule_of_its_own(self, two_stage_run):
        rates = [record.learning_rate for record in read_records(two_stage_run)]
        assert rates == pytest.approx([0.05, 0.005, 0.05, 0.005])


class Copying(Reporter):
    """Copies a run directory after each epoch, as a kill just then would leave it."""

    def __init__(self, directory, copies):
        self.directory = directory
        self.copies = copies

    def epoch(self, record):
        shutil.copytree(self.directory, self.copies / str(record.epoch + 1))


@pytest.fixture(scope="module")
def copies(tmp_path_factory, teacher_run):
    """A function: the folder of what a run leaves after each epoch, made once for equal options."""

    @functools.cache
    def made(**options):
        folder = tmp_path_factory.mktemp("copies")
        config = distill_config(folder / "run", teacher_run, **options)
        distill(config, Copying(folder / "run", folder))
        return folder

    return made


class TestResuming:
    """A run that was stopped ends as one that was not, bit for bit."""

    def stop_and_resume(self, command, config, reporter):
        with pytest.raises(Killed):
            command(config, reporter)
        command(dataclasses.replace(config, resume=True))

    @pytest.mark.parametrize("epochs", [1, 2, 3])
    def test_one_stage(self, copies, teacher_run, student_run, epochs):
        run = copies(epochs=3) / str(epochs)
        distill(distill_config(run, teacher_run, epochs=3, resume=True))
        assert outcome(run) == outcome(student_run)

    @pytest.mark.parametrize("epochs", [1, 2, 3, 4])
    def test_two_stages(self, copies, teacher_run, two_stage_run, epochs):
        options = {"transfer_epochs": 2, "weight_decay": 0.1}
        run = copies(**options) / str(epochs)
        distill(distill_config(run, teacher_run, resume=True, **options))
        assert outcome(run) == outcome(two_stage_run)

    def test_after_an_end_that_cleans_up(self, tmp_path, teacher_run, student_run):
        config = distill_config(tmp_path / "run", teacher_run, epochs=3)
        self.stop_and_resume(distill, config, KillAfter(2))
        assert outcome(tmp_path / "run") == outcome(student_run)

    def test_with_adapters(self, tmp_path, teacher_run):
        """For a student of other channels: trained beside it, in the checkpoint, in no weights."""
        options = {"width": 0.2, "epochs": 3, "clip": "norm"}
        distill(distill_config(tmp_path / "whole", teacher_run, **options))
        config = distill_config(tmp_path / "run", teacher_run, **options)
        with pytest.raises(Killed):
            distill(config, KillAfter(1))
        saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["states"]
        channels = [(weight.shape[1], weight.shape[0]) for weight in saved["companions"].values()]
        assert channels
        assert all(student > teacher for student, teacher in channels)
        self.stop_and_resume(distill, dataclasses.replace(config, resume=True), KillAtStep(6))
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
        student = build_network("mobilenet_student", 10, 0.2)
        assert set(weights(tmp_path / "run")) == set(student.state_dict())

    def test_from_a_checkpoint_without_the_adapters(self, tmp_path, teacher_run):
        config = distill_config(tmp_path / "run", teacher_run, width=0.2)
        with pytest.raises(Killed):
            distill(config, KillAfter(1))
        checkpoint = tmp_path / "run" / "checkpoint.pt"
        content = load_checkpoint(checkpoint, torch.device("cpu"))
        del content.states["companions"]
        save_checkpoint(checkpoint, content)
        with pytest.raises(RunError, match="expected a checkpoint of this run"):
            distill(dataclasses.replace(config, resume=True))

    def test_with_everything_that_is_random(self, tmp_path):
        train(train_config(tmp_path / "whole", **LONGER))
        config = train_config(tmp_path / "run", **LONGER)
        self.stop_and_resume(train, config, KillAfter(1))
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")

    @pytest.mark.parametrize("steps", [1, 6])
    def test_in_the_middle_of_an_epoch(self, tmp_path, teacher_run, student_run, steps):
        config = distill_config(tmp_path / "run", teacher_run, epochs=3)
        self.stop_and_resume(distill, config, KillAtStep(steps))
        assert outcome(tmp_path / "run") == outcome(student_run)

    @pytest.mark.parametrize("call", [1, 3])
    def test_before_the_checkpoint_is_written(
        self, tmp_path, teacher_run, student_run, call, monkeypatch
    ):
        """Weights and metrics are then an epoch ahead of the checkpoint."""
        calls = []

        def killing(checkpoints, checkpoint):
            calls.append(checkpoint)
            if len(calls) == call:
                raise Killed
            saving(checkpoints, checkpoint)

        saving = Checkpoints.save
        monkeypatch.setattr(Checkpoints, "save", killing)
        config = distill_config(tmp_path / "run", teacher_run, epochs=3)
        self.stop_and_resume(distill, config, Reporter())
        assert outcome(tmp_path / "run") == outcome(student_run)

    def test_twice(self, tmp_path, teacher_run, student_run):
        config = distill_config(tmp_path / "run", teacher_run, epochs=3)
        with pytest.raises(Killed):
            distill(config, KillAfter(1))
        self.stop_and_resume(distill, dataclasses.replace(config, resume=True), KillAfter(2))
        assert outcome(tmp_path / "run") == outcome(student_run)

    def test_trains_only_what_is_left(self, tmp_path):
        config = train_config(tmp_path / "run", epochs=3)
        with pytest.raises(Killed):
            train(config, KillAfter(2))
        watching = Watching()
        train(dataclasses.replace(config, resume=True), watching)
        kinds = [told[0] for told in watching.told]
        assert ("start", "run", 12, 8) in watching.told
        assert kinds.count("step") == 4
        assert watching.told[-1] == ("epoch", "task", 2)

    def test_elsewhere(self, tmp_path):
        with pytest.raises(Killed):
            train(train_config(tmp_path / "a"), KillAfter(1))
        (tmp_path / "a").rename(tmp_path / "b")
        summary = train(train_config(tmp_path / "b", resume=True))
        assert summary.directory == str(tmp_path / "b")
        assert summary.epochs == 2

    @pytest.mark.parametrize("damage", ["cut", "another"])
    def test_from_a_damaged_checkpoint(self, tmp_path, damage):
        run, config = tmp_path / "run", train_config(tmp_path / "run")
        with pytest.raises(Killed):
            train(config, KillAfter(1))
        checkpoint = run / "checkpoint.pt"
        if damage == "cut":
            checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
        else:
            with pytest.raises(Killed):
                train(train_config(tmp_path / "other", width=0.2), KillAfter(1))
            checkpoint.write_bytes((tmp_path / "other" / "checkpoint.pt").read_bytes())
        before = snapshot(run)
        with pytest.raises(RunError, match=r"checkpoint\.pt: expected a checkpoint"):
            train(dataclasses.replace(config, resume=True))
        after = snapshot(run)
        assert {name: after[name] for name in before} == before


class Photographing(Reporter):
    """Keeps what lies in a run directory after each epoch."""

    def __init__(self, directory):
        self.directory = directory
        self.pictures = []

    def epoch(self, record):
        self.pictures.append(snapshot(self.directory))


class TestDivergence:
    def test_at_once(self, tmp_path):
        with pytest.raises(TrainingError, match=r"^loss: .*nan.*epoch 1.*lower learning_rate"):
            train(train_config(tmp_path / "run", learning_rate=1e30))
        assert set(snapshot(tmp_path / "run")) >= {"config.yaml", "environment.json"}
        assert not list((tmp_path / "run").glob("*.safetensors"))
        assert not (tmp_path / "run" / "summary.json").exists()

    @pytest.mark.parametrize("steps", [6, 8])
    def test_later_leaves_the_epochs_before(self, tmp_path, monkeypatch, steps):
        """Within the second epoch, and with its last step, so that only the test images tell."""

        def exploding(name, optimizer, *_):
            rates = [1.0] * (steps - 1) + [1e32]
            return torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: rates[min(step, len(rates) - 1)]
            )

        monkeypatch.setattr(trainer_module, "build_schedule", exploding)
        photographing = Photographing(tmp_path / "run")
        with pytest.raises(TrainingError, match=r"^loss: expected a finite number, got .* epoch 2"):
            train(train_config(tmp_path / "run"), photographing)
        (before,) = photographing.pictures
        after = snapshot(tmp_path / "run")
        for name in before:
            if not name.startswith(("tensorboard", ".lock")):
                assert after[name] == before[name], name
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
        assert len(read_records(tmp_path / "run")) == 1


class TestWhatIsLeft:
    def test_files(self, student_run):
        names = {name.split("/")[0] for name in snapshot(student_run)}
        assert names == {
            "before_after.json",
            "config.yaml",
            "environment.json",
            "metrics.jsonl",
            "predictions.json",
            "student.safetensors",
            "student-best.safetensors",
            "summary.json",
            "tensorboard",
        }

    def test_metrics(self, student_run):
        lines = (student_run / "metrics.jsonl").read_text().splitlines()
        parsed = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        assert [line["epoch"] for line in parsed] == [0, 1, 2]
        for line in parsed:
            assert line["stage"] == "both"
            assert line["dev_accuracy"] is None
            assert line["transfer_loss"] > 0
            # Epochs 0, 1, 2 let through at most sigmoid(epoch) of the task's norm, per tensor.
            assert 0 < line["clipped_norm"] <= line["task_norm"]
            assert line["clipped_norm"] <= line["transfer_norm"]
            assert line["images_per_second"] > 0
            assert 0 <= line["svd_close"] <= 1
            assert 0 <= line["test_accuracy"] <= 100

    def test_tensorboard_says_what_the_metrics_say(self, student_run):
        (file,) = student_run.rglob("events.out.tfevents*")
        events = EventAccumulator(str(file.parent)).Reload()
        logged = [event.value for event in events.Scalars("test_accuracy")]
        assert logged == pytest.approx([r.test_accuracy for r in read_records(student_run)])
        assert [event.step for event in events.Scalars("transfer_loss")] == [0, 1, 2]

    def test_the_dev_split_chooses_the_best_epoch(self, tmp_path, monkeypatch):
        """The first of equals; neither the last nor the one that the test split would choose."""
        scores = {"dev": iter([50.0, 70.0, 70.0, 60.0]), "test": iter([40.0, 45.0, 80.0, 30.0])}

        def measured(trainer, split, network):
            name = "test" if split is trainer.context.data.test else "dev"
            one = torch.zeros(1, dtype=torch.int64)
            predictions = Predictions(one, one, torch.ones(1))
            return Evaluation(next(scores[name]), 1.0, len(split), predictions)

        monkeypatch.setattr(trainer_module.Trainer, "evaluate", measured)
        run = tmp_path / "run"
        photographing = Photographing(run)
        summary = train(train_config(run, epochs=4, dev_fraction=0.3), photographing)
        assert (summary.best_epoch, summary.best_by) == (2, "dev")
        assert (summary.best_accuracy, summary.last_accuracy) == (45.0, 30.0)
        after_each = [picture["student.safetensors"] for picture in photographing.pictures]
        assert len(set(after_each)) == 4
        assert (run / "student-best.safetensors").read_bytes() == after_each[1]
        assert (run / "student.safetensors").read_bytes() == after_each[3]

    def test_without_one_the_test_split_chooses(self, student_run):
        summary, records = read_summary(student_run), read_records(student_run)
        test = [record.test_accuracy for record in records]
        assert summary.best_by == "test"
        assert summary.best_accuracy == max(test)
        assert summary.best_epoch == 1 + test.index(max(test))
        assert summary.seconds == pytest.approx(sum(record.seconds for record in records))
