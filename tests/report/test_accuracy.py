import io
import statistics

from rich.console import Console

from made_runs import compared, made_run
from svdistill.common import Table
from svdistill.config import TrainConfig
from svdistill.report import MethodRow, method_rows, run_table
from svdistill.report.accuracy import Headline, accuracy_table, headline, step_time_table
from svdistill.report.comparison import PairComparison
from svdistill.report.runs import Run
from svdistill.runs import RunSummary

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


def test_the_best_way_to_teach_is_named_with_its_gain_in_every_seed() -> None:
    found = said(
        TEACHER,
        *seeds("a", [60.0, 62.0, 61.0]),
        *seeds("b", [63.0, 61.0, 65.0], **ON_DIGITS),
        *seeds("c", [59.0, 59.0, 59.0], **SOFT),
    )
    labels = [label for label, _ in found.numbers]
    assert labels == ["teacher, %", "student alone, %", "SVD, %", "gain, points"]
    assert [cell.text for _, cell in found.numbers][3].startswith("+2.00 ± ")
    assert "best of 2 methods is SVD: 2.00 points above the student alone" in found.sentences
    assert "above it with 2 of 3 seeds" in found.sentences


def test_svd_is_spoken_of_also_where_it_lost() -> None:
    found = said(
        TEACHER,
        *seeds("a", [60.0, 62.0]),
        *seeds("b", [58.0, 60.0], **ON_DIGITS),
        *seeds("c", [70.0, 70.0], **SOFT),
    )
    assert "best of 2 methods is soft target" in found.sentences
    assert "By singular vectors the best is SVD: 2.00 points below" in found.sentences


def test_one_seed_claims_no_spread() -> None:
    found = said(*seeds("a", [60.0]), *seeds("b", [59.0], **ON_DIGITS))
    assert "1.00 points below the student alone, with one seed" in found.sentences


def test_what_cannot_be_compared_is_said() -> None:
    assert "unknown" in said(TEACHER, *seeds("b", [59.0], **ON_DIGITS)).sentences
    alone = said(TEACHER, *seeds("a", [60.0]))
    assert "nothing to compare" in alone.sentences
    assert [label for label, _ in alone.numbers] == ["teacher, %", "student alone, %"]


def test_a_teacher_that_is_no_better_is_named() -> None:
    weak = made_run("t", "vgg_teacher", accuracies=(60.0,))
    runs = [*seeds("a", [60.0]), *seeds("b", [61.0], **ON_DIGITS)]
    assert "had little to teach" in said(weak, *runs).sentences
    assert "had little to teach" not in said(TEACHER, *runs).sentences


def summary(last, best, seed):
    return RunSummary(
        directory=f"runs/{seed}",
        kind="train",
        network="vgg_student",
        width=1.0,
        loss=None,
        seed=seed,
        last_accuracy=last,
        best_accuracy=best,
        best_epoch=3,
        best_by="test",
        teacher_accuracy=None,
        parameters=3_751_652,
        flops=121_184_256,
        epochs=5,
        seconds=1.0,
        num_classes=100,
        image_size=32,
    )


def test_runs_are_gathered_by_method_in_first_come_order():
    runs = [("b", summary(1, 2, 0)), ("a", summary(3, 4, 0)), ("b", summary(5, 6, 1))]
    rows = method_rows(runs)
    assert [row.method for row in rows] == ["b", "a"]
    assert rows[0].last == (1, 5)
    assert rows[0].best == (2, 6)
    assert rows[1].parameters == 3_751_652


def test_a_narrow_terminal_shows_every_number_whole():
    name = "position SVD + soft target, k = 4, amortised"
    rows = [MethodRow(name, (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title"))
    shown = console.export_text()
    assert "61.00 ± 1.41" in shown
    assert "…" not in shown
    assert all(word in shown for word in name.split())


def test_console_and_markdown_show_the_same_cells():
    rows = [MethodRow("SVD", (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title"))
    shown = console.export_text()
    cells = [
        cell.strip() for cell in run_table(rows).to_markdown().splitlines()[2].strip("|").split("|")
    ]
    assert cells[0] == "SVD"
    assert all(cell in shown for cell in cells)
    assert "Title" in shown


def test_the_transfers_share_is_what_the_student_alone_would_not_take() -> None:
    alone = made_run("a", numbers={"images_per_second": 1000.0})
    taught = made_run("b", numbers={"images_per_second": 250.0}, **ON_DIGITS)
    table = step_time_table(compared(made_run("t", "vgg_teacher"), alone, taught))
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["student alone", "1.000", "× 1.00", "0 %"],
        ["SVD", "4.000", "× 4.00", "75 %"],
    ]


def test_without_a_student_alone_there_is_no_table() -> None:
    runs = [made_run("t", "vgg_teacher"), made_run("b", **ON_DIGITS)]
    assert step_time_table(compared(*runs)) is None
