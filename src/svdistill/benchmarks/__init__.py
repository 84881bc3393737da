"""What a step costs, and where the time goes: timed side by side in one process."""

from svdistill.benchmarks.config import BenchConfig
from svdistill.benchmarks.dfv_bench import DFVResult, bench_dfv
from svdistill.benchmarks.run import run_bench
from svdistill.benchmarks.step_bench import StepResult, bench_step
from svdistill.benchmarks.svd_bench import SVDResult, bench_svd

__all__ = [
    "BenchConfig",
    "DFVResult",
    "SVDResult",
    "StepResult",
    "bench_dfv",
    "bench_step",
    "bench_svd",
    "run_bench",
]
