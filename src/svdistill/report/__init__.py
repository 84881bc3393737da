"""Report finished runs as tables, as figures, and as one HTML page."""

from svdistill.report.comparison import compare as compare
from svdistill.report.curves import plot_curves as plot_curves
from svdistill.report.methods import MethodResult as MethodResult, t_interval as t_interval
from svdistill.report.page import write_report as write_report
from svdistill.report.runs import Run as Run, find_runs as find_runs
from svdistill.report.tables import (
    MethodRow as MethodRow,
    before_after_table as before_after_table,
    method_rows as method_rows,
    network_table as network_table,
    networks_table as networks_table,
    run_table as run_table,
)
