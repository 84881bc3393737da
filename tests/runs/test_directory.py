import dataclasses
import json

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.runs.directory import RunDirectory, stored_values
from svdistill.runs.records import read_environment, read_records
from tiny_runs import SUMMARY, distill_config, record, snapshot, train_config


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "deep" / "run")
    directory.open(train_config(directory.path), "images")
    return directory


def test_a_new_run(run):
    assert set(snapshot(run.path)) == {"config.yaml", "environment.json"}
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"]


def test_an_empty_directory_will_do(tmp_path):
    RunDirectory(tmp_path).open(train_config(tmp_path), "images")
    assert (tmp_path / "config.yaml").exists()


class TestRefuses:
    def refuses(self, directory, config, match):
        before = snapshot(directory)
        with pytest.raises(RunError, match=match):
            RunDirectory(directory).open(config, "images")
        assert snapshot(directory) == before

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_finished_run(self, run, resume):
        run.finish(SUMMARY)
        config = train_config(run.path, resume=resume)
        self.refuses(run.path, config, "without a finished run, got a finished run; choose another")

    def test_an_unfinished_run(self, run):
        self.refuses(run.path, train_config(run.path), "unfinished run; continue it with --resume")

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_directory_of_something_else(self, tmp_path, resume):
        (tmp_path / "thesis.tex").write_text("years of work")
        config = train_config(tmp_path, resume=resume)
        self.refuses(tmp_path, config, "something else; choose another --output")

    def test_another_configuration(self, run):
        config = train_config(run.path, learning_rate=0.3, resume=True)
        self.refuses(run.path, config, r"^learning_rate: expected 0\.05 as in .*got 0\.3")

    def test_the_run_of_another_command(self, run):
        config = distill_config(run.path, "teacher", resume=True)
        self.refuses(run.path, config, "^teacher: ")

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_file(self, tmp_path, resume):
        path = tmp_path / "run"
        path.write_text("precious")
        with pytest.raises(RunError, match="something else"):
            RunDirectory(path).open(train_config(path, resume=resume), "images")
        assert path.read_text() == "precious"

    @pytest.mark.parametrize("resume", [True, False])
    def test_what_cannot_be_made(self, tmp_path, resume):
        parent = tmp_path / "file"
        parent.write_text("precious")
        path = parent / "run"
        with pytest.raises(RunError, match=r"can be made, got Not a directory; choose another"):
            RunDirectory(path).open(train_config(path, resume=resume), "images")
        assert snapshot(tmp_path) == {"file": b"precious"}


def test_resuming_what_never_began_begins(tmp_path):
    RunDirectory(tmp_path / "run").open(train_config(tmp_path / "run", resume=True), "images")
    assert (tmp_path / "run" / "config.yaml").exists()


def test_resuming_changes_nothing_yet(run):
    before = snapshot(run.path)
    RunDirectory(run.path).open(train_config(run.path, resume=True), "images")
    assert snapshot(run.path) == before


def test_metrics_are_a_line_an_epoch(run):
    for epoch in range(3):
        run.append(record(epoch))
    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]
    assert read_records(run.path) == [record(0), record(1), record(2)]


@pytest.mark.parametrize("count", [0, 2, 3, 9])
def test_epochs_that_no_checkpoint_holds_are_dropped(run, count):
    run.keep_epochs(count)  # where there are none
    for epoch in range(3):
        run.append(record(epoch))
    run.keep_epochs(count)
    assert read_records(run.path) == [record(epoch) for epoch in range(min(count, 3))]


def test_finishing_drops_the_checkpoints(run):
    for path in (run.checkpoints.newest, run.checkpoints.previous):
        path.write_text("state")
    run.finish(SUMMARY)
    assert not run.checkpoints.any()
    assert json.loads(run.summary.read_text()) == dataclasses.asdict(SUMMARY)


class TestOneAtATime:
    @pytest.mark.parametrize("resume", [True, False])
    def test_a_second_one_is_told_who_holds_it(self, run, resume):
        config = train_config(run.path, resume=True)
        with run.opened(config, "images"):
            before = snapshot(run.path)
            second = RunDirectory(run.path)
            match = r"no other process writes, got one that is held by process \d+ on"
            with (
                pytest.raises(RunError, match=match),
                second.opened(dataclasses.replace(config, resume=resume), "images"),
            ):
                pytest.fail("it was not refused")
            assert snapshot(run.path) == before
        assert not (run.path / ".lock").exists()

    def test_what_a_killed_one_has_left_is_swept_up(self, run):
        for name in (".lock", ".checkpoint.pt.123.tmp"):
            (run.path / name).write_text("left")
        with run.opened(train_config(run.path, resume=True), "images"):
            assert set(snapshot(run.path)) == {".lock", "config.yaml", "environment.json"}

    @pytest.mark.parametrize("left", [[".lock"], [".config.yaml.1.tmp"], ["config.yaml"]])
    def test_one_killed_at_its_very_beginning_goes_on(self, run, left):
        for path in run.path.iterdir():
            if path.name not in left:
                path.unlink()
        for name in left:
            (run.path / name).touch()
        with run.opened(train_config(run.path, resume=True), "images"):
            assert set(snapshot(run.path)) == {".lock", "config.yaml", "environment.json"}

    def test_a_directory_of_something_else_is_not_locked(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with (
            pytest.raises(RunError, match="something else"),
            RunDirectory(tmp_path).opened(train_config(tmp_path), "images"),
        ):
            pytest.fail("it was not refused")
        assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_other_images_under_the_same_name(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.open(train_config(run.path), "images")
    before = snapshot(run.path)
    with pytest.raises(RunError, match=r"the images that .* was started with"):
        run.open(train_config(run.path, resume=True), "other images")
    assert snapshot(run.path) == before
    run.open(train_config(run.path, resume=True), "images")


def test_a_loss_given_as_an_object_has_the_same_options_again(tmp_path):
    run = RunDirectory(tmp_path / "run")
    first, resumed = (taught(run.path, loss="object:A", resume=again) for again in (False, True))
    run.open(first, "images", "weights", "A(grid=4)")
    before = snapshot(run.path)
    with pytest.raises(RunError, match=r"^loss: expected A\(grid=4\) as in .*, got A\(grid=2\); "):
        run.open(resumed, "images", "weights", "A(grid=2)")
    assert snapshot(run.path) == before
    run.open(resumed, "images", "weights", "A(grid=4)")
    recorded = read_environment(run.environment)
    assert recorded.pop("loss") == "A(grid=4)"
    run.environment.write_text(json.dumps(recorded))  # as an earlier version wrote it
    run.open(resumed, "images", "weights", "A(grid=2)")


def test_a_named_loss_is_in_the_configuration_alone(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.open(taught(run.path), "images", "weights")
    assert "loss" not in read_environment(run.environment)


def taught(path, **changes):
    return distill_config(path, changes.pop("teacher", "runs/t"), **changes)


class TestMovedSources:
    @pytest.fixture
    def run(self, tmp_path):
        run = RunDirectory(tmp_path / "run")
        run.open(taught(run.path), "images", "weights")
        return run

    def test_the_same_elsewhere_goes_on_and_is_recorded(self, run):
        moved = taught(run.path, teacher="runs/old", data="parquet:there", resume=True)
        run.open(moved, "images", "weights")
        stored = stored_values(run.config)
        assert (stored["teacher"], stored["data"]) == ("runs/old", "parquet:there")
        (note,) = read_environment(run.environment)["resumed"].values()
        assert "teacher 'runs/old' instead of 'runs/t'" in note
        assert run.resumed_with == ""
        run.open(moved, "images", "weights")
        assert len(read_environment(run.environment)["resumed"]) == 1  # nothing new
        with pytest.raises(RunError, match=r"^learning_rate: "):
            run.open(taught(run.path, learning_rate=0.5, resume=True), "images", "weights")

    @pytest.mark.parametrize("teacher", ["runs/t", "runs/old"])
    def test_another_teacher_is_refused(self, run, teacher):
        before = snapshot(run.path)
        with pytest.raises(RunError, match=rf"^teacher: .* another under the name {teacher}"):
            run.open(taught(run.path, teacher=teacher, resume=True), "images", "other weights")
        assert snapshot(run.path) == before

    def test_what_ends_equality_bit_for_bit_is_known(self, run):
        recorded = read_environment(run.environment)
        recorded["packages"]["torch"] = "2.0"
        recorded["threads"] += 1
        run.environment.write_text(json.dumps(recorded))
        run.open(taught(run.path, resume=True), "images", "weights")
        threads = recorded["threads"]
        expected = f"torch {torch.__version__} instead of 2.0, threads {threads - 1} instead of"
        assert run.resumed_with.startswith(expected)
        assert len(read_environment(run.environment)["resumed"]) == 1
