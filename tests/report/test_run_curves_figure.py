from dataclasses import replace

import numpy as np

from made_runs import lines, made_run, shows, texts
from svdistill.report.curves import run_curves
from svdistill.report.figure import BLUE, GREEN, PURPLE, VERMILION
from svdistill.report.runs import Run


def with_values(run: Run, name: str, values: list[float]) -> Run:
    records = tuple(
        replace(record, **{name: value}) for record, value in zip(run.records, values, strict=True)
    )
    return replace(run, records=records)


TAUGHT = made_run("run", loss="svd", accuracies=(10.0, 30.0, 90.0), teacher_accuracy=95.0)


def test_accuracies_and_losses_are_those_of_the_run() -> None:
    run = with_values(TAUGHT, "train_accuracy", [20.0, 25.0, 60.0])
    run = with_values(run, "test_loss", [3.0, 2.5, 1.0])
    run = with_values(run, "transfer_loss", [9.0, 8.0, 6.0])
    figure = run_curves(run)
    drawn = lines(figure.svg, BLUE)
    assert [shows(line, [10.0, 30.0, 90.0]) for line in drawn] == [True, False]
    assert shows(drawn[1], [3.0, 2.5, 1.0])
    assert shows(lines(figure.svg, VERMILION)[0], [20.0, 25.0, 60.0])
    assert shows(lines(figure.svg, PURPLE)[0], [9.0, 8.0, 6.0])
    assert lines(figure.svg, GREEN) == []
    assert "teacher: 95.0 %" in texts(figure.svg)
    assert "accuracy, % test 90.00" in figure.alt


def test_a_loss_that_falls_far_is_on_a_logarithmic_scale() -> None:
    values = [500.0, 50.0, 5.0]
    figure = run_curves(with_values(TAUGHT, "transfer_loss", values))
    assert shows(lines(figure.svg, PURPLE)[0], np.log(values).tolist())


def test_in_two_stages_only_the_first_has_the_transfer() -> None:
    run = with_values(TAUGHT, "transfer_loss", [9.0, 8.0, 300.0])
    first, second, last = run.records
    stages = (first, second, replace(last, stage="task"))
    figure = run_curves(replace(run, records=stages))
    assert [len(line) for line in lines(figure.svg, PURPLE)] == [2]


def test_a_network_trained_alone_has_neither_teacher_nor_transfer() -> None:
    shown = texts(run_curves(made_run("run")).svg)
    assert {"accuracy, %", "cross-entropy", "epoch"} <= set(shown)
    assert not any("transfer" in text or "teacher" in text for text in shown)


def test_held_out_images_have_a_line() -> None:
    figure = run_curves(with_values(TAUGHT, "dev_accuracy", [11.0, 29.0, 88.0]))
    assert shows(lines(figure.svg, GREEN)[0], [11.0, 29.0, 88.0])
    assert "held out" in texts(figure.svg)
