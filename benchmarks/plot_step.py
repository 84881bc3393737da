"""Draw where a training step's time goes, from benchmarks/results/step.json.

    python benchmarks/plot_step.py    # writes docs/images/step.png

One panel for each teacher and student, one bar for each way to teach, in floors: what the
networks cost anyway ends about at the line.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from svdistill.common.files import write_atomically
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
    """Draw the bars into a PNG."""
    rows = sum(len(table.rows) for table in result.tables)
    figure, panels = plt.subplots(
        len(result.tables),
        figsize=(10, 1.4 + 0.36 * rows),
        layout="constrained",
        squeeze=False,
        facecolor="white",
    )
    for axes, table in zip(panels[:, 0], result.tables, strict=True):
        _draw(axes, table)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
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
    """Draw the committed result."""
    result = read_result(ROOT / "benchmarks/results/step.json", StepResult)
    plot_step(result, ROOT / "docs/images/step.png")


if __name__ == "__main__":
    main()
