from pathlib import Path

import pytest

from made_runs import made_run, written
from svdistill.common.errors import RunError
from svdistill.report.runs import find_runs

RESULTS = Path(__file__).parents[2] / "results"


def test_runs_are_found_at_any_depth_each_once_and_sorted(tmp_path: Path) -> None:
    places = ["b/second", "a", "b/first"]
    for place in places:
        written(made_run(str(tmp_path / place), loss="svd", teacher="t", seed=4))
    (tmp_path / "b/unfinished").mkdir()
    (tmp_path / "b/unfinished/config.yaml").write_text("data: digits\nclasses_every: 1\n")
    found = find_runs([tmp_path / "b", tmp_path / "b/first", tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == sorted(places)
    (run, *_) = found
    assert (run.row, run.pair, run.summary.seed) == ("SVD", "VGG", 4)
    assert [record.test_accuracy for record in run.records] == [10.0, 20.0]
    assert run.weights is None
    assert run.environment["packages"]


def test_numbers_in_paths_count_as_numbers(tmp_path: Path) -> None:
    order = ["2/svd-10", "10/svd-2", "10/svd-10", "k2-0", "k16-0", "k16-x", "k²"]
    for place in order:
        written(made_run(str(tmp_path / place)))
    found = find_runs([tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == order


def test_a_run_reads_back_as_it_was(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"), loss="fsp", teacher="t")
    assert find_runs([written(run)]) == [run]


def test_weights_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"))
    (written(run) / "student.safetensors").touch()
    assert run.weights == tmp_path / "run" / "student.safetensors"


@pytest.mark.parametrize(
    ("network", "pair", "options", "is_teacher"),
    [
        ("vgg_stride_student", "VGG_stride", {}, False),
        ("vgg_teacher", "VGG", {}, True),
        ("mobilenet_student", "MobileNet", {"loss": "svd"}, False),
        ("resnext_teacher", "ResNeXt", {"loss": "svd"}, False),
    ],
)
def test_pair_and_part(network: str, pair: str, options: dict[str, str], is_teacher: bool) -> None:
    run = made_run("run", network, **options)
    assert (run.pair, run.is_teacher, run.is_distilled) == (pair, is_teacher, bool(options))


def test_networks_given_in_python_are_told_apart_by_their_size() -> None:
    pairs = [made_run("run", "object", parameters=count).pair for count in (1_230_000, 40_000)]
    assert pairs == ["own network, 1.23M parameters", "own network, 0.04M parameters"]


def test_other_libraries_networks_are_none_of_the_seeds() -> None:
    run = made_run("run", "timm:resnet18")
    assert (run.pair, run.is_of_paper, run.is_teacher) == ("timm:resnet18", False, False)
    assert made_run("run").is_of_paper


def test_a_wrong_path_is_answered_with_the_nearest(tmp_path: Path) -> None:
    written(made_run(str(tmp_path / "mini-clip" / "a")))
    with pytest.raises(RunError, match="did you mean 'mini-clip'"):
        find_runs([tmp_path / "mini-clpi"])


def test_a_folder_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        find_runs([tmp_path])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("data: digits\nclasses_every: 1\n")
    with pytest.raises(RunError, match="unfinished"):
        find_runs([tmp_path])


def test_committed_runs_are_read() -> None:
    rows = {run.row for run in find_runs([RESULTS / "mini-clip"])}
    assert rows == {"teacher", "student alone", "SVD", "SVD, global", "SVD, amortised"}
