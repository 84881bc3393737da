import pytest

from made_runs import made_run
from svdistill.report import tradeoffs
from svdistill.report.comparison import compare
from svdistill.report.curves import clipping_section, curves_section
from svdistill.report.networks import Latencies
from svdistill.report.tradeoffs import cost_section, vectors_section

SVD = {"loss": "svd", "teacher": "t"}
NORMS = {"task_norm": 2.0, "transfer_norm": 3.0, "clipped_norm": 1.0}


def test_each_comparison_has_its_own_curves() -> None:
    runs = [made_run("a"), made_run("b", "mobilenet_student"), made_run("c", classes_every=5)]
    sections = curves_section(compare(runs).pairs)
    assert [section.title for section in sections] == [
        "VGG on scikit-learn's digits",
        "MobileNet on scikit-learn's digits",
        "VGG on scikit-learn's digits (one class in 5)",
    ]
    assert all(len(section.figures) == 1 for section in sections)


def test_many_rows_are_spread_over_several_figures_the_best_in_the_first() -> None:
    taught = [
        made_run(f"k{k}", accuracies=(10.0, 20.0 + k), num_vectors=k, **SVD) for k in range(1, 11)
    ]
    (section,) = curves_section(compare([made_run("alone"), *taught]).pairs)
    first, second = (figure.alt for figure in section.figures)
    assert "k = 10 30.0" in first
    assert "k = 4 24.0" in first
    assert "k = 3 23.0" in second
    assert "student alone" in first
    assert "student alone" in second


def test_vectors_are_drawn_where_there_are_several_and_said_once_where_not() -> None:
    runs = [made_run("a"), made_run("b", **SVD), made_run("c", "mobilenet_student")]
    (section,) = vectors_section(compare([*runs, made_run("d", data="folder:flowers")]))
    assert section.figures == ()
    assert "two numbers of vectors" in section.missing[0]
    (section,) = vectors_section(compare([*runs, made_run("e", num_vectors=4, **SVD)]))
    assert len(section.figures) == 1


def test_clipping_says_what_was_not_recorded() -> None:
    close = {**NORMS, "svd_close": 0.25}
    runs = [
        made_run("a", numbers=close, **SVD),
        made_run("b", "mobilenet_student", numbers=NORMS, **SVD),
        made_run("c", "resnext_student", loss="fsp", teacher="t"),
    ]
    recorded, norms_only, nothing = clipping_section(compare(runs).pairs)
    assert (len(recorded.figures), recorded.missing) == (1, ())
    assert len(norms_only.figures) == 1
    assert "How often two singular values were close" in norms_only.missing[0]
    assert nothing.figures == ()
    assert len(nothing.missing) == 1
    assert "no run recorded the gradients" in nothing.missing[0]


def test_cost_is_drawn_for_each_data_set_also_without_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = Latencies(left_out=("Not one was timed.",))
    monkeypatch.setattr(tradeoffs, "measure_latencies", lambda runs: nothing)
    runs = [made_run("a"), made_run("b", "mobilenet_student"), made_run("c", data="folder:birds")]
    sections = cost_section(compare(runs))
    assert [section.title for section in sections] == ["scikit-learn's digits", "birds"]
    assert all(len(section.figures) == 1 for section in sections)
    assert sections[0].missing == ("Not one was timed.",)
