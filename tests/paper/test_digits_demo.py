import io
from dataclasses import replace

import pytest
from rich.console import Console

from svdistill.common.errors import ArgumentError
from svdistill.config import DistillConfig
from svdistill.networks import describe_network
from svdistill.paper import demo as run_demo
from svdistill.paper.digits_demo import METHODS, STUDENT, TEACHER, fresh_folder, student_runs


def test_every_method_trains_the_same_student_on_the_same_budget(tmp_path):
    (name, alone), *distilled = student_runs(tmp_path, seed=1)
    assert name == "student alone"
    assert not isinstance(alone, DistillConfig)
    assert [method for method, _ in distilled] == list(METHODS)
    for _, config in distilled:
        config.check()
        assert config.teacher == str(tmp_path / "teacher-1")
        assert config.transfer_epochs == 0
        for field in ("network", "width", "epochs", "train_size", "seed", "learning_rate"):
            assert getattr(config, field) == getattr(alone, field)


def test_a_folder_that_exists_gets_a_number(tmp_path):
    wanted = tmp_path / "demo"
    assert fresh_folder(wanted) == wanted
    wanted.mkdir()
    assert fresh_folder(wanted) == tmp_path / "demo-2"
    (tmp_path / "demo-2").mkdir()
    assert fresh_folder(wanted) == tmp_path / "demo-3"


@pytest.mark.slow
def test_a_short_demo_prints_its_table_and_where_the_runs_lie(tmp_path, monkeypatch):
    module = "svdistill.paper.digits_demo"
    monkeypatch.setattr(f"{module}.TEACHER", replace(TEACHER, epochs=1, train_size=100, width=0.1))
    monkeypatch.setattr(f"{module}.STUDENT", replace(STUDENT, epochs=1, width=0.1))
    console = Console(width=120, record=True, file=io.StringIO())
    rows = run_demo(tmp_path / "demo", seeds=1, console=console)
    shown = console.export_text()
    assert [row.method for row in rows] == ["teacher", "student alone", *METHODS]
    assert all(0 <= row.last[0] <= 100 and len(row.last) == 1 for row in rows)
    assert rows[0].parameters > rows[1].parameters == rows[-1].parameters
    assert str(tmp_path / "demo") in shown
    assert (tmp_path / "demo" / "curves.png").stat().st_size > 1000
    assert len(list((tmp_path / "demo").glob("*/summary.json"))) == len(rows)
    page = tmp_path / "demo" / "report.html"
    assert page.name in shown
    assert "student alone" in page.read_text()
    table = describe_network("mobilenet_student", num_classes=10, width=0.1, image_size=16)
    assert rows[1].flops == table.profile.flops


def test_no_seeds_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="seeds"):
        run_demo(tmp_path / "demo", seeds=0)
    assert not (tmp_path / "demo").exists()
