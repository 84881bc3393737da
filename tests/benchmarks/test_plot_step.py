"""The plot of docs/speed.md draws what the committed result says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib import pyplot as plt

from svdistill_benchmarks import GrowthResult, StepResult
from svdistill_benchmarks.run import read_result

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plot_step", ROOT / "benchmarks/plot_step.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result() -> StepResult:
    return read_result(ROOT / "benchmarks/results/step.json", StepResult)


def test_a_picture_is_written(plot: ModuleType, result: StepResult, tmp_path: Path) -> None:
    plot.plot_step(result, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs/images/step.png").exists()


def test_lines_are_drawn_of_what_was_measured(plot: ModuleType, tmp_path: Path) -> None:
    result = read_result(ROOT / "benchmarks/results/growth.json", GrowthResult)
    axes = {point.axis for point in result.points}
    assert axes == {"batch", "image size", "width"}
    assert all(len(point.steps) == len(result.methods) for point in result.points)
    plot.plot_growth(result, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs/images/growth.png").exists()


def test_bars_end_at_the_ratio_unless_the_rest_is_negative(
    plot: ModuleType, result: StepResult
) -> None:
    for table in result.tables:
        _, axes = plt.subplots()
        plot._draw(axes, table)
        for place, row in enumerate(table.rows):
            bars = [bars[place] for bars in axes.containers]
            end = sum(bar.get_width() for bar in bars)
            rest = min(0.0, row.parts[-1].over_floor)
            assert end == pytest.approx(row.over_floor.median - rest)
        plt.close()


def test_every_part_has_a_colour(plot: ModuleType) -> None:
    assert list(plot.COLOURS) == list(plot.KINDS)
