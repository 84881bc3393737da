"""`svdistill bench`: what is measured, and the files that it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from svdistill.common import RunError, read_plain, threads, write_json
from svdistill.config import BenchConfig, require_read
from svdistill.training import choose_device
from svdistill_benchmarks.dfv import bench_dfv
from svdistill_benchmarks.growth import bench_growth
from svdistill_benchmarks.step import bench_step
from svdistill_benchmarks.svd import bench_svd
from svdistill_benchmarks.tables import Result
from svdistill_benchmarks.workload import chosen_pairs

Kind = TypeVar("Kind")


def make_folder(path: Path) -> None:
    """Make the folder of a result, before the time is spent that the result takes.

    Raises:
        RunError: it cannot be made, or the path is a folder itself.
    """
    problem = "a folder" if path.is_dir() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    if problem:
        raise RunError(
            str(path),
            expected="a file in a folder that is there or can be made",
            got=problem,
            remedy="choose another --output",
        )


def write_result(path: Path, result: Result) -> None:
    """Write a result, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    write_json(path, dataclasses.asdict(result))


def read_result(path: Path, kind: type[Kind]) -> Kind:
    """Read a result of this kind.

    Raises:
        RunError: the file is missing, damaged, or holds something else.
    """
    return read_plain(
        path,
        kind,
        expected=f"a {kind.__name__}",
        remedy="measure it again with `svdistill bench`",
    )


RESULTS = Path("benchmarks/results")


def run_bench(what: str, config: BenchConfig) -> tuple[Result, Path]:
    """Measure, and write what came out.

    Args:
        what: `svd`, `dfv`, `step` or `growth`.
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


def _measure(what: str, config: BenchConfig) -> Result:
    device = choose_device(config.device)
    batch_size, rounds = config.batch_size, config.rounds
    if what == "dfv":
        return bench_dfv(batch_size=batch_size, rounds=rounds, device=device)
    pairs = chosen_pairs(config.network)
    options: dict[str, Any] = {
        "width": config.width,
        "rounds": rounds,
        "device": device,
        "data": config.data,
    }
    if what == "growth":
        return bench_growth(pairs[0], **options)
    if what == "step":
        return bench_step(pairs, batch_size=batch_size, **options)
    return bench_svd(pairs, batch_size=batch_size, teacher=config.teacher, **options)
