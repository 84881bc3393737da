from pathlib import Path

import numpy as np

from made_runs import compared, lines, made_run, shows, texts
from svdistill.report.curves import clipping_curves
from svdistill.report.figure import BLUE, VERMILION
from svdistill.report.runs import find_runs

RESULTS = Path(__file__).parents[2] / "results"
NORMS = {"task_norm": 2.0, "transfer_norm": 30.0, "clipped_norm": 1.0}


def test_norms_are_those_of_the_runs_on_a_logarithmic_scale() -> None:
    runs = find_runs([RESULTS / "mini-clip" / f"vgg-stride-svd-norm-{seed}" for seed in range(3)])
    figure = clipping_curves(compared(*runs).methods)
    assert figure is not None

    def mean(name: str) -> list[float]:
        values = [[getattr(record, name) for record in run.records] for run in runs]
        return list(np.log(np.mean(values, axis=0)))

    for name, colour in (
        ("task_norm", "currentColor"),
        ("transfer_norm", VERMILION),
        ("clipped_norm", BLUE),
    ):
        assert any(shows(line, mean(name)) for line in lines(figure.svg, colour)), name


def test_each_row_has_a_panel_and_rows_without_gradients_none() -> None:
    runs = [
        made_run("alone"),
        made_run("svd", loss="svd", numbers=NORMS),
        made_run("global", loss="svd", clip="global", numbers=NORMS),
    ]
    figure = clipping_curves(compared(*runs).methods)
    assert figure is not None
    shown = texts(figure.svg)
    assert "SVD" in shown
    assert "SVD, global" in shown
    assert not any("alone" in text for text in shown)
    assert clipping_curves(compared(*runs[:1]).methods) is None


def test_shares_are_drawn_where_there_were_any() -> None:
    hard = made_run("svd", loss="svd", numbers={**NORMS, "svd_close": 0.25, "svd_missed": 0.0})
    figure = clipping_curves(compared(hard).methods)
    assert figure is not None
    shown = texts(figure.svg)
    assert {"SVDs, %", "close"} <= set(shown)
    assert "missed" not in shown
    assert any(np.ptp(line[:, 1]) == 0 for line in lines(figure.svg, BLUE))
    assert "bound; there were none" in figure.caption


def test_without_a_hard_case_the_caption_says_so() -> None:
    easy = made_run("svd", loss="svd", numbers={**NORMS, "svd_missed": 0.0})
    figure = clipping_curves(compared(easy).methods)
    assert figure is not None
    assert "SVDs, %" not in texts(figure.svg)
    assert "there were none" in figure.caption
    assert "Close" not in figure.caption


def test_one_run_has_no_seeds_to_speak_of() -> None:
    runs = [made_run(f"svd-{seed}", loss="svd", seed=seed, numbers=NORMS) for seed in (0, 1)]
    one, both = (
        clipping_curves(compared(*runs[:1]).methods),
        clipping_curves(compared(*runs).methods),
    )
    assert one is not None
    assert both is not None
    assert "seed" not in one.caption
    assert "a band reaches from the lowest seed to the highest" in both.caption
