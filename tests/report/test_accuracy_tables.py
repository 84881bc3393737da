import statistics

from made_runs import compared, made_run
from svdistill.common import Table
from svdistill.config import TrainConfig
from svdistill.report.accuracy import accuracy_table
from svdistill.report.comparison import PairComparison
from svdistill.report.runs import Run

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


def test_the_paper_stands_beside_with_the_difference() -> None:
    table = accuracy_table(compared(*runs()))
    assert column(table, "paper's %") == ["64.44", "61.37", "65.54"]
    assert column(table, "difference") == ["+4.56", "−1.37", "−1.71"]
    assert column(table, "paper's gain") == ["–", "–", "+4.17"]


def test_the_best_student_stands_out_even_where_the_teacher_is_better() -> None:
    assert accuracy_table(compared(*runs())).best == (2,)


def test_without_numbers_of_the_paper_there_are_no_columns_for_them() -> None:
    entry = compared(made_run("a", data="digits"))
    headings = [one.heading for one in accuracy_table(entry).columns]
    assert "difference" not in headings
    assert "FLOPs" in headings
    assert "no number for these rows on scikit-learn's digits" in note(entry)


def test_repeated_seeds_do_not_count_twice() -> None:
    table = accuracy_table(compared(made_run("a", **CIFAR), made_run("b", **CIFAR)))
    assert column(table, "seeds") == ["1 (2 runs)"]


def test_the_note_names_what_keeps_a_run_from_being_a_reproduction() -> None:
    short = [
        made_run("a", epochs=24, width=0.5, classes_every=5, **options) for options in (CIFAR, SVD)
    ]
    said = note(compared(*short))
    assert "differ in classes, width of the networks, epochs." in said
    assert "does not say whether the paper's result was reproduced" in said


def test_the_note_says_where_only_the_teaching_differs_or_nothing_does() -> None:
    exact = made_run("b", **{**SVD, "gradient": "exact"})
    assert "differs in gradient of the SVD" in note(compared(exact))
    assert TrainConfig(output="").epochs == 200
    assert note(compared(*runs())).startswith("Trained and distilled as in the paper.")


def test_the_note_says_what_the_best_epoch_was_chosen_on() -> None:
    assert "chosen on the test images" in note(compared(*runs()))


def test_the_paper_is_none_of_other_networks_business() -> None:
    entry = compared(made_run("a", "timm:resnet18", data=CIFAR["data"]))
    assert "paper" not in note(entry)
    assert not any("paper" in column.heading for column in accuracy_table(entry).columns)
