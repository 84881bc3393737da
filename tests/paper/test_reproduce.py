from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from imagenet_files import write_tiny_imagenet
from svdistill.cli import main
from svdistill.common.errors import ArgumentError
from svdistill.paper import ReproduceConfig, reproduce
from svdistill.paper.reproduce import customised


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("smoke")
    console = Console(record=True, width=200, file=(folder / "printed.txt").open("w"))
    config = ReproduceConfig(
        preset="smoke",
        network="vgg_stride",
        method="student,soft-target,svd,svd-amortised-k4",
        output=str(folder / "runs"),
        device="cpu",
    )
    reproduce("networks", config, console=console)
    return folder / "runs", console.export_text()


@pytest.mark.slow
def test_a_search_shows_accuracies_on_held_out_images_the_best_first(tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=(tmp_path / "printed.txt").open("w"))
    methods = ("soft-target-task0.1-w0.9", "soft-target-task1-w2.7")
    config = ReproduceConfig(
        preset="smoke", method=",".join(methods), output=str(tmp_path / "runs"), device="cpu"
    )
    runs = reproduce("search", config, console=console)
    students = {run.path.name[:-2]: run for run in runs if run.is_distilled}
    assert set(students) == set(methods)
    assert all(run.config["dev_fraction"] == 0.2 for run in students.values())
    shown = re.findall(r"^ (soft-target-\S+) +([\d.]+) ", console.export_text(), re.MULTILINE)
    assert {name: float(value) for name, value in shown} == {
        name: pytest.approx(run.records[-1].dev_accuracy, abs=0.005)
        for name, run in students.items()
    }
    assert [float(value) for _, value in shown] == sorted(
        (float(value) for _, value in shown), reverse=True
    )


@pytest.mark.slow
def test_everything_asked_for_is_made_shown_and_put_on_a_page(made: tuple[Path, str]) -> None:
    root, printed = made
    folders = sorted(
        path.parent.relative_to(root).as_posix() for path in root.rglob("summary.json")
    )
    assert folders == [
        "vgg-stride/soft-target-0",
        "vgg-stride/student-0",
        "vgg-stride/svd-0",
        "vgg-stride/svd-amortised-k4-0",
        "vgg-teacher",
    ]
    for name in ("teacher", "student alone", "soft target", "SVD", "SVD, k = 4, amortised"):
        assert name in printed
    assert "points from its student alone" in printed
    page = (root / "report.html").read_text()
    assert "SVD, k = 4, amortised" in page


@pytest.mark.slow
def test_what_is_finished_is_not_made_again(made: tuple[Path, str]) -> None:
    root, _ = made
    times = {path: path.stat().st_mtime_ns for path in root.rglob("summary.json")}
    words = [
        *("reproduce", "networks", "--preset", "smoke", "--network", "vgg_stride"),
        *("--method", "student,svd", "--output", str(root), "--device", "cpu"),
    ]
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("summary.json")} == times


def test_a_dry_run_lists_the_runs_with_times_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("reproduce", "multitask", "--preset", "smoke", "--network", "vgg_stride"),
        *("--method", "fsp,svd-2-stage", "--output", str(tmp_path / "runs"), "--dry-run"),
        *("--classes", "3@1"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for name in ("vgg-teacher", "stores/vgg-teacher", "fsp-0", "svd-2-stage-0", "1 + 2"):
        assert name in printed
    assert printed.startswith("4 runs, 4 to do, in ")
    assert re.search(r"^digits: 200 training images, \d+ test images, 3x\d+x\d+$", printed, re.M)
    assert re.search(r"^3 classes: \d, \d, \d$", printed, re.M)
    assert re.search(r"\d+ (s|min) of computing, \d at a time: about \d+ (s|min)$", printed.strip())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_of_other_options_in_the_way_stops_everything_before_it_begins(
    made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = made
    other = tmp_path / "runs"
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "summary.json"):
        target = other / "vgg-stride" / "student-0" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (root / "vgg-stride" / "student-0" / name).read_text()
        target.write_text(text.replace("epochs: 2", "epochs: 3"))
    words = ["reproduce", "networks", "--preset", "smoke", "--output", str(other)]
    assert main(words) == 2
    assert "epochs" in capsys.readouterr().err
    assert not (other / "vgg-teacher").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"preset": "tiny"}, "preset"),
        ({"network": "vgg19"}, "network"),
        ({"method": "svdd"}, "method"),
        ({"seeds": 0}, "seeds"),
        ({"jobs": 0}, "jobs"),
        ({"max_seconds": -1.0}, "max_seconds"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        reproduce("networks", ReproduceConfig(**options))


@pytest.mark.slow
def test_large_images_of_64_pixels(tmp_path: Path) -> None:
    data = write_tiny_imagenet(tmp_path / "tiny-imagenet-200", size=50)
    config = ReproduceConfig(
        preset="smoke",
        data=f"tiny_imagenet:{data}",
        method="student,svd",
        output=str(tmp_path / "runs"),
        device="cpu",
    )
    runs = {run.row: run for run in reproduce("large", config)}
    assert set(runs) == {"teacher", "student alone", "SVD"}
    for run in runs.values():
        assert run.config["image_size"] == 64
        assert run.pair == "VGG"
    assert runs["SVD"].summary.flops > 0
    assert "Tiny-ImageNet" in (tmp_path / "runs" / "report.html").read_text()


def test_large_folders_are_imagenet_of_fifty_classes() -> None:
    config = ReproduceConfig(preset="paper", data="folder:imagenet")
    preset = customised("large", config)
    for run in (preset.teacher, preset.student):
        assert (run.classes, run.image_size, run.classes_every) == ("50@0", 64, 1)


def test_classes_replace_those_of_the_preset() -> None:
    preset = customised("networks", ReproduceConfig(preset="mini", classes="10@3"))
    for run in (preset.teacher, preset.student):
        assert (run.classes, run.classes_every) == ("10@3", 1)


def test_large_images_have_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "large", "--preset", "smoke"]) == 2
    assert "tiny_imagenet:PATH" in capsys.readouterr().err
