"""One benchmark from its options to a JSON file."""

from __future__ import annotations

from pathlib import Path

from svdistill.benchmarks.config import BenchConfig, require_read
from svdistill.benchmarks.dfv_bench import DFVResult, bench_dfv
from svdistill.benchmarks.results import make_folder, write_result
from svdistill.benchmarks.step_bench import StepResult, bench_step
from svdistill.benchmarks.svd_bench import SVDResult, bench_svd
from svdistill.benchmarks.workload import chosen_pairs
from svdistill.timing import threads
from svdistill.training.assembly import choose_device

RESULTS = Path("benchmarks/results")


def run_bench(what: str, config: BenchConfig) -> tuple[SVDResult | DFVResult | StepResult, Path]:
    """Measure, and write what came out.

    Args:
        what: `svd`, `dfv` or `step`.
        config: the options; those that it does not read must be left alone.

    Returns:
        The result, and the JSON file that holds it.

    Raises:
        ArgumentError, DataError, RunError: an option, the data, the teacher or the output file is
            not usable.
    """
    require_read(what, config)
    path = Path(config.output) if config.output else RESULTS / f"{what}.json"
    make_folder(path)
    with threads(config.threads):
        result = _measure(what, config)
    write_result(path, result)
    return result, path


def _measure(what: str, config: BenchConfig) -> SVDResult | DFVResult | StepResult:
    device = choose_device(config.device)
    batch_size, rounds = config.batch_size, config.rounds
    if what == "dfv":
        return bench_dfv(batch_size=batch_size, rounds=rounds, device=device)
    pairs = chosen_pairs(config.network)
    if what == "step":
        return bench_step(
            pairs,
            batch_size=batch_size,
            width=config.width,
            rounds=rounds,
            device=device,
            data=config.data,
        )
    return bench_svd(
        pairs,
        batch_size=batch_size,
        width=config.width,
        rounds=rounds,
        device=device,
        teacher=config.teacher,
        data=config.data,
    )
