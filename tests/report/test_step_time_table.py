from made_runs import compared, made_run
from svdistill.report.accuracy import step_time_table

SVD = {"loss": "svd", "teacher": "t"}


def test_the_transfers_share_is_what_the_student_alone_would_not_take() -> None:
    alone = made_run("a", numbers={"images_per_second": 1000.0})
    taught = made_run("b", numbers={"images_per_second": 250.0}, **SVD)
    table = step_time_table(compared(made_run("t", "vgg_teacher"), alone, taught))
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["student alone", "1.000", "× 1.00", "0 %"],
        ["SVD", "4.000", "× 4.00", "75 %"],
    ]


def test_without_a_student_alone_there_is_no_table() -> None:
    runs = [made_run("t", "vgg_teacher"), made_run("b", **SVD)]
    assert step_time_table(compared(*runs)) is None
