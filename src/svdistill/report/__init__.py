"""Finished runs as tables, figures, and one page."""

from svdistill.report.accuracy import MethodRow, method_rows, run_table
from svdistill.report.comparison import Comparison, MethodResult, PairComparison, compare
from svdistill.report.curves import plot_curves
from svdistill.report.networks import network_table, networks_table
from svdistill.report.outcome import before_after_table
from svdistill.report.page import write_report
from svdistill.report.runs import Run, find_runs

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
    "write_report",
]
