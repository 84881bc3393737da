"""What a step costs, and where the time goes: timed side by side."""

from svdistill_benchmarks.dfv import DFVResult, bench_dfv
from svdistill_benchmarks.growth import GrowthResult, bench_growth
from svdistill_benchmarks.run import run_bench
from svdistill_benchmarks.step import StepResult, bench_step
from svdistill_benchmarks.svd import SVDResult, bench_svd
from svdistill_benchmarks.tables import footnotes, result_tables

__all__ = [
    "DFVResult",
    "GrowthResult",
    "SVDResult",
    "StepResult",
    "bench_dfv",
    "bench_growth",
    "bench_step",
    "bench_svd",
    "footnotes",
    "result_tables",
    "run_bench",
]
