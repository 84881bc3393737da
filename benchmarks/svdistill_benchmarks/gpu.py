"""Check and measure svdistill on a GPU, in one command.

    python -m svdistill_benchmarks.gpu                          # writes $OUT/gpu.json, or gpu.json
    python -m svdistill_benchmarks.gpu --device cpu --small     # tries the script without a GPU
    python -m svdistill_benchmarks.gpu --count                  # counts kernels and bytes, anywhere

Cases run in order of their value: losses against float64, recorded against eager training,
synchronisation, dropout and resume across replays; time and memory of steps, precisions, epochs;
last the compiled steps. The file is written after each case. A second call skips the cases that it
has, and tries failed ones again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import torch

from svdistill.common import write_json
from svdistill.losses import DEFAULT_LOSS, loss_names
from svdistill_benchmarks.gpu_checks import (
    check_dropout,
    check_loss,
    check_recording,
    check_resume,
    check_synchronisation,
)
from svdistill_benchmarks.gpu_steps import count_transfer, time_epoch, time_step
from svdistill_benchmarks.gpu_work import METHODS, PAPER, Setting, available_pairs, new_work
from svdistill_benchmarks.machine import machine

Case = Callable[[], dict[str, Any]]

KINDS: Final = ("eager", "recorded")

FIRST: Final = ("plain student", "default")  # the methods that are timed first

LARGE: Final = "resnet"  # images of 224 pixels


def cases(setting: Setting) -> Iterator[tuple[str, Case]]:
    """All cases by name, the most valuable first."""
    for loss in (*loss_names(), DEFAULT_LOSS):
        yield f"check: {loss} against float64", partial(check_loss, loss, setting)
    pairs = available_pairs()
    small = [pair for pair in pairs if pair != LARGE]

    def work(pair: str, method: str, precision: str = "float32") -> partial[Any]:
        return partial(new_work, pair, method, precision, setting)

    for pair, method in [*product(small[:1], METHODS), *((pair, "default") for pair in small[1:])]:
        name = f"check: recorded against eager: {pair}, {method}"
        yield name, partial(check_recording, work(pair, method))
    for method in METHODS:
        name = f"check: no synchronisation: vgg, {method}"
        yield name, partial(check_synchronisation, work("vgg", method))
    yield "check: dropout across replays", partial(check_dropout, work("vgg", "default"))
    yield "check: resume of recorded training", partial(check_resume, work("vgg", "default"))
    for pair, method, kind in product(pairs, FIRST, KINDS):
        name = f"step: {pair}, {method}, float32, {kind}"
        yield name, partial(time_step, work(pair, method), kind)
    for precision in ("tf32", "bf16", "fp16"):
        # The scaler of fp16 synchronises in each step, so that it is not recorded.
        for kind in KINDS[:1] if precision == "fp16" else KINDS:
            name = f"step: vgg, default, {precision}, {kind}"
            yield name, partial(time_step, work("vgg", "default", precision), kind)
    for method, precision in product(("default", "plain student", "SVD"), ("float32", "bf16")):
        name = f"epoch: vgg, {method}, {precision}"
        yield name, partial(time_epoch, work("vgg", method, precision))
    rest = [method for method in METHODS if method not in FIRST]
    for pair, method, kind in product(pairs, rest, KINDS):
        name = f"step: {pair}, {method}, float32, {kind}"
        yield name, partial(time_step, work(pair, method), kind)
    # Compiling takes minutes.
    for pair, method in product(small[:1] if setting.small else pairs, METHODS):
        name = f"step: {pair}, {method}, float32, compiled"
        yield name, partial(time_step, work(pair, method), "compiled")


def run_cases(setting: Setting, path: Path, max_seconds: float) -> dict[str, Any]:
    """Run the cases that the file lacks; failed ones come last.

    No case begins that would end after `max_seconds` if it took as long as the longest before it.
    """
    began, longest = time.perf_counter(), 0.0
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {**machine(), "device": str(setting.device), "small": setting.small}
    left = [case for case in cases(setting) if "error" in results.get(case[0], {"error": ""})]
    for name, run in sorted(left, key=lambda case: case[0] in results):
        start = time.perf_counter()
        if start - began + longest > max_seconds:
            print("out of time; the same command runs the rest", flush=True)
            break
        results[name] = _result(run)
        end = time.perf_counter()
        longest = max(longest, end - start)
        print(f"{end - began:6.1f} s  {_line(name, results)}", flush=True)
        write_json(path, results)
        gc.collect()
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return results


def count_all() -> dict[str, Any]:
    """What the losses of every method ask of a GPU, by pair and method."""
    taught = {name: config for name, config in METHODS.items() if config is not None}
    return {
        "torch": torch.__version__,
        "pairs": {
            pair: {name: count_transfer(pair, config) for name, config in taught.items()}
            for pair in PAPER
        },
    }


def _result(run: Case) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "the step cannot be recorded", RuntimeWarning)
            return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def _line(name: str, results: Mapping[str, Any]) -> str:
    """A result on one line; of a step also its ratio to the plain student's."""
    found = results[name]
    if "error" in found:
        return f"{name}: FAILED: {found['error']}"
    shown = {key: value for key, value in found.items() if isinstance(value, (bool, float))}
    line = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
    kind, _, rest = name.partition(": ")
    pair, _, rest = rest.partition(", ")
    _, _, rest = rest.partition(", ")
    plain = results.get(f"{kind}: {pair}, plain student, {rest}", {}).get("seconds")
    return f"{name}: {line}" + (f", {found['seconds'] / plain:.2f} plain students" if plain else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a case failed."""
    parser = argparse.ArgumentParser(
        prog="python -m svdistill_benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="default: $OUT/gpu.json, or gpu.json here")
    parser.add_argument("--max_seconds", type=float, default=540.0, help="of all cases")
    parser.add_argument("--small", action="store_true", help="tiny networks and few images")
    parser.add_argument("--count", action="store_true", help="count kernels, on any machine")
    options = parser.parse_args(arguments)
    if options.count:
        write_json(options.output or Path("gpu-work.json"), count_all())
        return 0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --device cpu --small tries the script without one")
    path = options.output or Path(os.environ.get("OUT", ".")) / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = run_cases(Setting(device, options.small), path, options.max_seconds)
    found = {name: result for name, result in results.items() if name != "machine"}
    failed = [name for name, case in found.items() if not case.get("passed", "error" not in case)]
    print(f"{len(found)} cases in {path}", *(f"failed: {name}" for name in failed), sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
