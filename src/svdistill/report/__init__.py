"""Finished runs as tables, figures, and one page of all of them."""

from svdistill.report.before_after_table import before_after_table
from svdistill.report.curves import plot_curves
from svdistill.report.network_tables import network_table, networks_table
from svdistill.report.page import write_report
from svdistill.report.run_tables import MethodRow, markdown_table, method_rows, run_table
from svdistill.report.runs import Run, find_runs

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
