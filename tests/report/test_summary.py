import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from made_runs import compared, made_run, written
from svdistill.common import RunError, Table
from svdistill.export import ShippedFile
from svdistill.report.comparison import PairComparison
from svdistill.report.runs import Run, find_runs
from svdistill.report.summary import Headline, accuracy_table, cost_table, headline
from svdistill.training import BeforeAfter, NetworkFigures

CIFAR = {"data": "parquet:cifar100", "network": "vgg_student"}
# What the paper's own protocol is, with the gradient that it prints.
SVD = {**CIFAR, "loss": "svd", "teacher": "t", "gradient": "poster"}


def note(pair: PairComparison) -> str:
    return " ".join(accuracy_table(pair).notes)


def column(table: Table, heading: str) -> list[str]:
    place = [one.heading for one in table.columns].index(heading)
    return [row[place].text for row in table.rows]


def runs() -> list[Run]:
    alone = [60.0, 61.0, 59.0]
    taught = [64.0, 62.5, 65.0]
    return [
        made_run("t", "vgg_teacher", accuracies=(70.0, 69.0), data=CIFAR["data"]),
        *(made_run(f"a{s}", accuracies=(a,), seed=s, **CIFAR) for s, a in enumerate(alone)),
        *(made_run(f"b{s}", accuracies=(a,), seed=s, **SVD) for s, a in enumerate(taught)),
    ]


def test_cells_show_mean_and_deviation_and_sort_by_the_mean() -> None:
    table = accuracy_table(compared(*runs()))
    values = [64.0, 62.5, 65.0]
    expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert column(table, "last epoch %") == ["69.00", "60.00 ± 1.00", expected]
    assert column(table, "best epoch %")[0] == "70.00"
    assert table.rows[2][1].number == statistics.mean(values)
    assert column(table, "seeds") == ["1", "3", "3"]
    gains = [4.0, 1.5, 6.0]
    expected = f"+{statistics.mean(gains):.2f} ± {statistics.stdev(gains):.2f}"
    assert column(table, "gain") == ["–", "–", expected]


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    taught = compared(*runs()).distilled[0]
    reference = stats.ttest_rel(taught.last, [60.0, 61.0, 59.0]).confidence_interval(0.95)
    assert taught.gain_interval == pytest.approx((reference.low, reference.high))
    low, high = (f"{bound:.1f}".replace("-", "−") for bound in reference)
    table = accuracy_table(compared(*runs()))
    assert column(table, "95 % of the gain") == ["–", "–", f"{low} to {high}"]


def test_the_paper_stands_beside() -> None:
    table = accuracy_table(compared(*runs()))
    assert column(table, "paper's %") == ["64.44", "61.37", "65.54"]
    assert column(table, "paper's gain") == ["–", "–", "+4.17"]


def test_the_best_student_stands_out_even_where_the_teacher_is_better() -> None:
    assert accuracy_table(compared(*runs())).best == (2,)


def test_without_numbers_of_the_paper_there_are_no_columns_for_them() -> None:
    entry = compared(made_run("a", data="digits"))
    headings = [one.heading for one in accuracy_table(entry).columns]
    assert headings == ["method", "last epoch %", "best epoch %", "seeds"]
    assert "no number for these rows on scikit-learn's digits" in note(entry)


def test_repeated_seeds_do_not_count_twice() -> None:
    table = accuracy_table(compared(made_run("a", **CIFAR), made_run("b", **CIFAR)))
    assert column(table, "seeds") == ["1 (2 runs)"]


def test_the_note_names_what_keeps_a_run_from_being_a_reproduction() -> None:
    short = [
        made_run("a", epochs=24, width=0.5, classes_every=5, **options) for options in (CIFAR, SVD)
    ]
    said = note(compared(*short))
    assert "differ in classes, width of the networks, epochs;" in said
    assert "only the sign can be compared" in said


def test_the_note_says_where_only_the_teaching_differs_or_nothing_does() -> None:
    exact = made_run("b", **{**SVD, "gradient": "exact"})
    assert "differs in gradient of the SVD" in note(compared(exact))
    assert note(compared(*runs())).endswith("Trained and distilled as in the paper.")


def test_the_note_says_what_the_best_epoch_was_chosen_on() -> None:
    assert "chosen on the test images" in note(compared(*runs()))


def test_the_paper_is_none_of_other_networks_business() -> None:
    entry = compared(made_run("a", "timm:resnet18", data=CIFAR["data"]))
    assert "paper" not in note(entry)
    assert not any("paper" in column.heading for column in accuracy_table(entry).columns)


ON_DIGITS = {"loss": "svd", "teacher": "t"}
SOFT = {"loss": "soft_target", "teacher": "t"}
TEACHER = made_run("t", "vgg_teacher", accuracies=(80.0,))


def said(*runs: Run) -> Headline:
    return headline(compared(*runs))


def seeds(name: str, accuracies: list[float], **options: object) -> list[Run]:
    return [
        made_run(f"{name}{seed}", accuracies=(accuracy,), seed=seed, **options)
        for seed, accuracy in enumerate(accuracies)
    ]


def tiles(found: Headline) -> dict[str, tuple[str, str]]:
    return {tile.label: (tile.number, tile.beside) for tile in found.tiles}


def test_a_gain_above_zero_in_every_draw_is_worth_it() -> None:
    found = said(
        TEACHER,
        *seeds("a", [60.0, 62.0, 61.0]),
        *seeds("b", [63.5, 65.5, 64.2], **ON_DIGITS),
        *seeds("c", [59.0, 59.0, 59.0], **SOFT),
    )
    low, high = stats.t.interval(0.95, 2, *stats_of([3.5, 3.5, 3.2]))
    assert found.verdict == (
        f"+3.4 points over the student alone by SVD, 95 % interval {low:.1f} to {high:.1f} over "
        "3 seeds: worth it."
    )
    assert tiles(found)["gain"] == (
        "+3.4 points",
        f"over the student alone; 95 %: {low:.1f} to {high:.1f}, 3 seeds",
    )
    assert tiles(found)["student"] == ("64.40 %", "student alone: 61.00 %")
    assert tiles(found)["teacher"] == ("80.00 %", "15.60 points above the student")
    assert "Of 2 distilled rows" in found.sentences


def stats_of(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return sum(values) / len(values), float(stats.sem(values))


@pytest.mark.parametrize(
    ("taught", "result"),
    [
        ([63.0, 61.0, 65.0], "interval −4.6 to 8.6 over 3 seeds: not shown to be a gain."),
        ([57.0, 59.1, 58.0], "over 3 seeds: not worth it."),
        ([64.0], "+4.0 points over the student alone by SVD; not shown to be a gain: one seed."),
    ],
)
def test_what_is_not_shown_is_called_so(taught: list[float], result: str) -> None:
    found = said(*seeds("a", [60.0, 62.0, 61.0]), *seeds("b", taught, **ON_DIGITS))
    assert found.verdict.endswith(result)


def test_without_a_student_alone_there_is_no_gain() -> None:
    found = said(TEACHER, *seeds("b", [59.0], **ON_DIGITS))
    assert "The gain of SVD is not shown" in found.verdict
    assert "svdistill train" in found.verdict
    assert "gain" not in tiles(found)
    other_seed = said(*seeds("a", [60.0]), made_run("b", seed=1, **ON_DIGITS))
    assert "not shown" in other_seed.verdict
    alone = said(TEACHER, *seeds("a", [60.0]))
    assert alone.verdict == ""
    assert list(tiles(alone)) == [
        *("student", "teacher", "parameters", "FLOPs of an image", "training"),
    ]


def test_the_headline_compares_rows_of_as_many_epochs_and_of_several_seeds() -> None:
    two_stages = {"loss": "svd", "transfer_epochs": 1, "teacher": "t"}
    longer = [made_run(f"c{s}", accuracies=(1.0, 2.0, 90.0), seed=s, **two_stages) for s in (0, 1)]
    alone = [made_run(f"a{s}", accuracies=(1.0, 60.0), seed=s) for s in (0, 1)]
    taught = [made_run(f"b{s}", accuracies=(1.0, 62.0), seed=s, **ON_DIGITS) for s in (0, 1)]
    pair = compared(*alone, *taught, *longer, made_run("d", accuracies=(1.0, 95.0), **SOFT))
    assert pair.leader is not None
    assert pair.leader.name == "SVD"
    only = headline(compared(*alone, *longer))
    assert "trained for 3 epochs, the student alone for 2" in only.sentences
    assert "2-stage rows have more epochs" in note(compared(*alone, *longer))


def test_a_teacher_that_is_no_better_is_named() -> None:
    weak = made_run("t", "vgg_teacher", accuracies=(60.0,))
    runs = [*seeds("a", [60.0]), *seeds("b", [61.0], **ON_DIGITS)]
    assert "had little to teach" in said(weak, *runs).sentences
    assert "had little to teach" not in said(TEACHER, *runs).sentences


def test_the_time_of_a_step_is_over_the_student_alones() -> None:
    alone = made_run("a", numbers={"images_per_second": 1000.0})
    taught = made_run("b", numbers={"images_per_second": 250.0}, **ON_DIGITS)
    pair = compared(made_run("t", "vgg_teacher"), alone, taught)
    assert column(accuracy_table(pair), "time of a step") == ["–", "× 1.00", "× 4.00"]
    assert tiles(headline(pair))["training"] == (
        "1 s",
        "250 images/s, × 4.0 the time of the student alone",
    )


SMALL = NetworkFigures(
    accuracy=10.0, parameters=900_000, flops=9_000_000, bytes=3_600_000, milliseconds=2.0
)
MEASURED = BeforeAfter(
    test_images=400,
    threads=1,
    teacher=NetworkFigures(90.0, 9_000_000, 135_000_000, 36_000_000, 5.0),
    before=SMALL,
    after=replace(SMALL, accuracy=80.0),
)
SHIPPED = ShippedFile("student.onnx", "ONNX Runtime", "int8", 950_000, 79.5, 200, 0.25, 2)


def one(*, shipped: tuple[ShippedFile, ...] = (), **options: object) -> PairComparison:
    options = {
        "accuracies": (60.0, 80.0),
        "teacher_accuracy": 90.0,
        "loss": "svd",
        "parameters": 900_000,
        "flops": 9_000_000,
        "teacher": "timm:large",
        **options,
    }
    run = made_run("run", "timm:small", **options)
    return compared(replace(run, before_after=MEASURED, shipped=shipped))


def test_one_run_is_compared_with_its_teacher() -> None:
    found = headline(one())
    assert tiles(found) == {
        "student": ("80.00 %", "95 %: 75.8 to 83.6 for other 400 images"),
        "teacher": ("90.00 %", "10.00 points above the student"),
        "weights": ("3.60 MB", "10 × less than the teacher"),
        "latency": ("2.00 ms", "of the PyTorch network, 1 thread; export measures the file's"),
        "training": ("1 s", "1 images/s"),
    }
    table = cost_table(one())
    assert [row[0].text for row in table.rows] == ["teacher timm:large", "student timm:small"]
    assert [cell.number for cell in table.rows[0][1:]] == [9_000_000, 135_000_000, 36.0, 5.0]
    assert "svdistill export measures" in " ".join(table.notes)


def test_the_shipped_files_size_and_latency_are_told_where_it_was_exported() -> None:
    found = tiles(headline(one(shipped=(SHIPPED,))))
    assert found["shipped file"] == ("0.95 MB", "ONNX Runtime, int8")
    assert found["latency"] == ("0.25 ms", "one image, ONNX Runtime, 2 threads")
    last = cost_table(one(shipped=(SHIPPED,))).rows[-1]
    assert [cell.text for cell in last] == [
        *("student.onnx: ONNX Runtime, int8", "", "", "0.95 MB", "0.25 ms"),
    ]


def test_costs_of_runs_that_timed_nothing_are_counts() -> None:
    teacher = made_run("t", "vgg_teacher", parameters=9_000_000, flops=20_000_000)
    pair = compared(teacher, *seeds("a", [60.0], parameters=900_000))
    found = tiles(headline(pair))
    assert found["parameters"] == ("0.900M", "10 × fewer than the teacher")
    assert found["FLOPs of an image"] == ("2.0M", "10 × fewer than the teacher")
    assert len(cost_table(pair).columns) == 3


@pytest.mark.parametrize(
    ("accuracy", "beside"), [(80.0, "as the student"), (70.0, "10.00 points below the student")]
)
def test_a_teacher_that_is_not_ahead(accuracy: float, beside: str) -> None:
    assert tiles(headline(one(teacher_accuracy=accuracy)))["teacher"][1] == beside


def test_a_better_epoch_of_one_run_is_named() -> None:
    found = headline(one(accuracies=(60.0, 85.0, 80.0)))
    assert "The best epoch was 3 of 3, with 85.00 %" in found.sentences


def test_damaged_figures_are_refused(tmp_path: Path) -> None:
    for name in ("before_after.json", "predictions.json", "student.onnx.json"):
        folder = written(made_run(str(tmp_path / name.replace(".", "-"))))
        (folder / name).write_text("{}")
        with pytest.raises(RunError, match=name.partition(".")[0]):
            find_runs([folder])


def with_two_teachers(own: str, accuracy: float) -> PairComparison:
    """A leading student of the teacher `own`, and one each of a larger and a smaller teacher."""
    teachers = [
        made_run(f"runs/{name}", f"timm:{name}", accuracies=(last,), parameters=size)
        for name, last, size in (("large", 80.0, 20_000_000), ("small", 60.0, 9_000_000))
    ]
    shared = {"network": "timm:tiny", "parameters": 900_000, "loss": "svd"}
    return compared(
        *teachers,
        made_run("a", "timm:tiny", accuracies=(70.0,), parameters=900_000),
        made_run("b", accuracies=(74.0,), teacher="runs/large", **shared),
        made_run("d", accuracies=(71.0,), teacher="runs/small", num_vectors=4, **shared),
        made_run("c", accuracies=(76.0,), teacher=own, teacher_accuracy=accuracy, **shared),
    )


def test_the_headline_is_about_the_leaders_own_teacher() -> None:
    found = headline(with_two_teachers("runs/small", 60.0))
    assert tiles(found)["teacher"] == ("60.00 %", "16.00 points below the student")
    assert tiles(found)["parameters"] == ("0.900M", "10 × fewer than the teacher")
    assert "had little to teach" in found.sentences


def test_of_a_teacher_without_a_run_the_headline_has_what_was_measured() -> None:
    found = headline(with_two_teachers("gone", 65.0))
    assert tiles(found)["teacher"] == ("65.00 %", "11.00 points below the student")
    assert tiles(found)["parameters"] == ("0.900M", "")
    assert "had little to teach" in found.sentences
    other = said(TEACHER, made_run("b", **{**ON_DIGITS, "teacher": "gone"}, teacher_accuracy=50.0))
    assert tiles(other)["teacher"][0] == "50.00 %"
