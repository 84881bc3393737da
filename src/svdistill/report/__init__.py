"""Finished runs as tables, figures, and one page."""

from svdistill.report.comparison import Comparison, PairComparison, compare
from svdistill.report.curves import plot_curves
from svdistill.report.methods import MethodResult, t_interval
from svdistill.report.page import write_report
from svdistill.report.runs import Run, find_runs
from svdistill.report.tables import (
    MethodRow,
    before_after_table,
    method_rows,
    network_table,
    networks_table,
    run_table,
)

__all__ = [
    "Comparison",
    "MethodResult",
    "MethodRow",
    "PairComparison",
    "Run",
    "before_after_table",
    "compare",
    "find_runs",
    "method_rows",
    "network_table",
    "networks_table",
    "plot_curves",
    "run_table",
    "t_interval",
    "write_report",
]
