import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from picture_files import noise, write_folder
from svdistill.cli import main
from svdistill.common.errors import ArgumentError, SVDistillError, TrainingError
from svdistill.paper import baselines, compare_seeds
from svdistill.paper.baselines import verdict
from svdistill.paper.jobs import JobResult, run_job
from svdistill.runs.directory import read_config
from svdistill.runs.records import read_summary
from tiny_runs import distill_config

TITLES = ("student alone", "soft target", "SVD + soft target")
FOLDERS = ("student", "soft-target", "svd-soft-target")


def in_turn(jobs, _processes, *, ended):
    """`run_jobs` in this process."""
    for job in jobs:
        try:
            run_job(job)
        except SVDistillError as error:
            ended(JobResult(job, str(error)))
        else:
            ended(JobResult(job, None))


@pytest.fixture(scope="module")
def made(tmp_path_factory, teacher_run):
    folder = tmp_path_factory.mktemp("seeds") / "compared"
    config = distill_config(
        *(folder, teacher_run),
        loss="svd+soft_target",
        augmentation="crop_flip",
        views=2,
        epochs=1,
        train_size=60,
        seed=5,
    )
    console = Console(record=True, width=120, file=(folder.parent / "printed").open("w"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "run_jobs", in_turn)
        table = compare_seeds(config, 2, baseline=True, console=console)
    return config, table, console.export_text()


def accuracies(config):
    return [
        [read_summary(Path(config.output) / f"{name}-{seed}").last_accuracy for seed in (5, 6)]
        for name in FOLDERS
    ]


def test_the_table_has_each_mean_and_the_gains_with_their_intervals(made):
    config, table, printed = made
    alone, soft, ours = accuracies(config)
    assert tuple(row[0].text for row in table.rows) == TITLES
    assert [row[1].number for row in table.rows] == pytest.approx(
        [sum(found) / 2 for found in (alone, soft, ours)]
    )
    for row, found, others in ((1, soft, [alone]), (2, ours, [alone, soft])):
        for cell, other in zip(table.rows[row][2:], others, strict=False):
            interval = ttest_rel(found, other).confidence_interval(0.95)
            mean = sum(found) / 2 - sum(other) / 2
            expected = f"{mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"
            assert cell.text == expected
    assert re.search(r"^(worth it|not worth it|not shown): ", printed, re.MULTILINE)
    assert (Path(config.output) / "report.html").exists()


def test_all_runs_differ_in_the_method_alone_and_share_teacher_and_store(made):
    config, _, _ = made
    folder = Path(config.output)
    alone, soft, ours = (read_config(folder / f"{name}-5" / "config.yaml") for name in FOLDERS)
    for name in (
        "epochs",
        "learning_rate",
        "schedule",
        "train_size",
        "image_size",
        "max_grad_norm",
    ):
        assert getattr(alone, name) == getattr(soft, name) == getattr(ours, name)
    assert (alone.views, alone.views_seed) == (2, 0)
    assert soft.knowledge == ours.knowledge == str(folder / "store")
    assert (soft.task_weight, soft.transfer_weight, soft.clip) == (0.1, 0.9, "none")
    assert (ours.task_weight, ours.soft_target_weight, ours.clip) == (1.0, 3.0, "amortised")


def test_the_same_command_goes_on(made, monkeypatch, capsys):
    config, table, _ = made
    asked = []
    monkeypatch.setattr(baselines, "run_jobs", lambda jobs, *_, **__: asked.extend(jobs))
    monkeypatch.setattr(baselines, "write_report", lambda *_, **__: "page")
    words = ["distill", "--seeds", "2", "--baseline", f"--output={config.output}"]
    values = dataclasses.asdict(config).items()
    asked_for = {"output", "student_taps", "teacher_taps"}
    words += [f"--{k}={v}" for k, v in values if v not in (None, "", []) and k not in asked_for]
    words.append("--max_grad_norm=null")
    assert main(words) == 0
    assert asked == []
    printed = capsys.readouterr().out
    assert "7 runs, 0 to do" in printed
    assert table.rows[2][2].text in printed


def test_seeds_alone_repeat_the_run(tmp_path, teacher_run):
    config = distill_config(tmp_path, teacher_run, seed=3)
    jobs, runs = baselines._plan(config, 2, baseline=False)
    assert [Path(job.output).name for job in jobs] == ["svd-3", "svd-4"]
    assert list(runs) == ["SVD"]
    assert [(job.seed, job.teacher) for job in jobs] == [(3, config.teacher), (4, config.teacher)]


def test_a_store_is_shared_where_it_is_small(tmp_path, teacher_run):
    for changes, names in (
        ({"loss": "fsp", "views": 2}, ["fsp-0"]),
        ({"loss": "position_gram", "views": 2}, ["store", "gram-of-positions-0"]),
        ({"loss": "position_gram", "views": 2, "grid": 0}, ["gram-of-positions-0"]),
    ):
        jobs, _ = baselines._plan(distill_config(tmp_path, teacher_run, **changes), 1, False)
        assert [Path(job.output).name for job in jobs] == names


def test_a_folder_of_runs_on_other_images_is_refused(made, tmp_path):
    """The same options and the same teacher do not make the same runs of other images."""
    write_folder(tmp_path / "images", noise(90), [number % 3 for number in range(90)])
    with pytest.raises(SVDistillError, match="images that --data names"):
        compare_seeds(dataclasses.replace(made[0], data=f"folder:{tmp_path / 'images'}"), 2)


@pytest.mark.parametrize(
    ("precision", "of_teacher", "stored"),
    [
        ("bf16", None, "bf16"),
        ("float32", "bf16", "bf16"),
        ("bf16", "float32", "float32"),
        ("fp16", None, "float32"),
        ("auto", None, "auto"),
    ],
)
def test_a_store_is_made_in_the_precision_of_the_teacher(
    precision, of_teacher, stored, tmp_path, teacher_run
):
    options = {"precision": precision, "teacher_precision": of_teacher, "views": 1}
    (store, student), _ = baselines._plan(
        distill_config(tmp_path, teacher_run, loss="svd", **options), 1, False
    )
    assert (store.precision, student.precision) == (stored, precision)


def test_a_run_that_fails_ends_the_command(tmp_path, teacher_run, monkeypatch):
    monkeypatch.setattr(baselines, "run_jobs", in_turn)
    config = distill_config(tmp_path / "runs", teacher_run, epochs=1, data="folder:missing")
    with pytest.raises(
        TrainingError, match=r"runs/svd-0: expected a run that finishes, got .*the same"
    ):
        compare_seeds(config, 1)


def test_a_run_is_no_folder_for_several(student_run, teacher_run):
    with pytest.raises(ArgumentError, match=r"^output: expected a folder for several runs"):
        compare_seeds(distill_config(student_run, teacher_run), 2)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ([63.0, 64.1, 65.0], "worth it: SVD gains "),
        ([60.0, 66.0, 58.0], "not shown: the gain of SVD over the student alone, .* may be chance"),
        ([50.0, 51.1, 52.0], "not worth it: SVD loses against the student alone, "),
    ],
)
def test_the_verdict_says_why(ours, said):
    assert re.match(said, verdict({"student alone": [60.0, 61.0, 62.0], "SVD": ours}))


def test_one_seed_shows_nothing():
    assert verdict({"student alone": [60.0], "SVD": [90.0]}).startswith("not shown: one seed")
