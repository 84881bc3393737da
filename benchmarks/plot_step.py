"""Draw where a training step's time goes and how it grows, from benchmarks/results.

    python benchmarks/plot_step.py    # writes docs/images/step.png and growth.png

step.png: a panel for each teacher and student, a bar for each method, in floors: what the networks
cost anyway ends about at the line. growth.png: a panel for each thing that grows, a line for each
method.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdistill.common.files import write_atomically
from svdistill_benchmarks.growth import GrowthResult
from svdistill_benchmarks.run import read_result
from svdistill_benchmarks.step import NetworkSteps, StepResult
from svdistill_benchmarks.step_parts import (
    DFV,
    KINDS,
    OPTIMIZER,
    REST,
    STUDENT_BACKWARD,
    STUDENT_FORWARD,
    STUDENT_SVD,
    SVD_BACKWARD,
    TEACHER_FORWARD,
    TEACHER_SVD,
)

ROOT = Path(__file__).parent.parent
# Greys for what the networks cost, colours for what teaching adds.
COLOURS = {
    TEACHER_FORWARD: "#cfcfcf",
    STUDENT_FORWARD: "#ababab",
    STUDENT_BACKWARD: "#878787",
    OPTIMIZER: "#636363",
    TEACHER_SVD: "#4393c3",
    STUDENT_SVD: "#2166ac",
    SVD_BACKWARD: "#d6604d",
    DFV: "#f4a442",
    REST: "#e6d9f2",
}


def plot_step(result: StepResult, output: Path) -> None:
    """Draw the bars into a PNG: of processes that keep their memory, where they were measured."""
    tables = [table for table in result.tables if table.keeps_memory] or result.tables
    rows = sum(len(table.rows) for table in tables)
    figure, panels = plt.subplots(
        len(tables),
        figsize=(10, 1.4 + 0.36 * rows),
        layout="constrained",
        squeeze=False,
        facecolor="white",
    )
    for axes, table in zip(panels[:, 0], tables, strict=True):
        _draw(axes, table)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _write(figure, output)


def plot_growth(result: GrowthResult, output: Path) -> None:
    """Draw the lines into a PNG, with logarithmic axes."""
    axes_names = list(dict.fromkeys(point.axis for point in result.points))
    figure, panels = plt.subplots(
        1, len(axes_names), figsize=(10, 4.6), layout="constrained", sharey=True, facecolor="white"
    )
    for axes, name in zip(panels, axes_names, strict=True):
        points = [point for point in result.points if point.axis == name]
        values = [point.value for point in points]
        for place, method in enumerate(result.methods):
            times = [1e3 * point.steps[place].median for point in points]
            axes.loglog(values, times, marker="o", markersize=4, label=method)
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms a step")
    panels[0].yaxis.set_major_formatter("{x:g}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _write(figure, output)


def _write(figure: Figure, output: Path) -> None:
    write_atomically(output, lambda path: figure.savefig(path, dpi=120, format="png"))
    plt.close(figure)


def _draw(axes: Axes, table: NetworkSteps) -> None:
    places = range(len(table.rows))
    ends = [0.0] * len(table.rows)
    for kind in KINDS:
        widths = [
            sum(max(0.0, part.over_floor) for part in row.parts if part.kind == kind)
            for row in table.rows
        ]
        axes.barh(places, widths, left=ends, label=kind, color=COLOURS[kind], height=0.75)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, (end, row) in enumerate(zip(ends, table.rows, strict=True)):
        axes.annotate(
            f"{row.over_floor.median:.2f}",
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle="--", zorder=1.5)
    axes.set_yticks(places, [row.name for row in table.rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_title(f"{table.teacher} to {table.student}", loc="left", fontsize="medium")
    axes.set_xlabel("time of a step, in floors")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the committed results."""
    results, images = ROOT / "benchmarks/results", ROOT / "docs/images"
    plot_step(read_result(results / "step.json", StepResult), images / "step.png")
    plot_growth(read_result(results / "growth.json", GrowthResult), images / "growth.png")


if __name__ == "__main__":
    main()
