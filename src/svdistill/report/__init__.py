"""Finished runs as tables and figures."""

from svdistill.report.curves import plot_curves
from svdistill.report.network_tables import network_table, networks_table
from svdistill.report.run_tables import MethodRow, markdown_table, method_rows, run_table

__all__ = [
    "MethodRow",
    "markdown_table",
    "method_rows",
    "network_table",
    "networks_table",
    "plot_curves",
    "run_table",
]
