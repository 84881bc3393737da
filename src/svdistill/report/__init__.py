"""Finished runs as tables, figures, and one page of all of them."""

from svdistill.report.curves import plot_curves
from svdistill.report.outcome import before_after_table
from svdistill.report.page import write_report
from svdistill.report.runs import Run, find_runs, network_table, networks_table
from svdistill.report.tables import MethodRow, markdown_table, method_rows, run_table

__all__ = [
    "MethodRow",
    "Run",
    "before_after_table",
    "find_runs",
    "markdown_table",
    "method_rows",
    "network_table",
    "networks_table",
    "plot_curves",
    "run_table",
    "write_report",
]
