"""Kill training runs at random moments, let them go on, and compare with runs left alone.

    python benchmarks/reliability/kills.py [--kills 50] [--seed 0] [--output FILE]

Small runs on digits, each in a process of its own. Half of the kills come from outside at a random
time, the other half from inside at a random flush or rename of a file: in the middle of writing a
checkpoint, weights or metrics. The signal is SIGKILL, which no program can catch. After each the
run is resumed, and killed again; what is at its end must equal the end of the run left alone, bit
for bit: weights of the last and of the best epoch, and every number but the times. The exit status
says whether it did. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.paper.running import run_task
from svdistill.runs.checkpoint import Checkpoint, Checkpoints
from svdistill.runs.records import environment, read_records, read_summary

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reliability" / "kills.json"
KILLS_EACH: Final = 5  # of one run, before it is left to end
CLOCK: Final = ("seconds", "images_per_second", "loading_seconds", "directory")
# What a run imports on its way, so that a process takes no seconds to begin.
PRELOADED: Final = (
    *("accelerate", "sklearn.datasets", "sklearn.model_selection", "tensorboard", "torch._dynamo"),
    "torch.utils.tensorboard",
)
CPU: Final = torch.device("cpu")
TINY: Final[dict[str, Any]] = {
    "data": "digits",
    "network": "mobilenet_student",
    "width": 0.1,
    "train_size": 300,
    "augmentation": "paper",
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.02,
    "device": "cpu",
    "checkpoint_minutes": 0.001,
}
# Beside the options above: dropout and an optimizer with much state; one stage and two; no teacher.
CASES: Final[dict[str, dict[str, Any]]] = {
    "the task alone": {"network": "vgg_student", "width": 0.05, "optimizer": "adamw"},
    "one stage, adapters": {"teacher": "teacher", "width": 0.2, "loss": "svd"},
    "two stages": {"teacher": "teacher", "transfer_epochs": 2, "loss": "svd+soft_target"},
    "from a store": {"knowledge": "store", "loss": "svd"},
    "images without labels": {
        "teacher": "teacher",
        "loss": "svd",
        "train_size": 60,
        "unlabelled": "rest",
        "dev_fraction": 0.8,
    },
    "images streamed by 2 processes": {"memory_limit_gb": 1e-9, "workers": 2},
}

Config = TrainConfig | CacheConfig


@dataclass(frozen=True)
class Kill:
    """When a run is killed: after so many seconds, or at the n-th flush or rename of a file."""

    seconds: float | None = None
    write: int | None = None


def run(config: Config, write: int | None) -> None:
    """What a process does; it kills itself at the n-th flush or rename."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    said = os.open(f"{config.output}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 2)
    if write is not None:
        _kill_at(write)
    run_task(config)


def _kill_at(write: int) -> None:
    """Let the n-th flush or rename be the last thing that the process does, or does not do."""
    left = write
    flush, rename = os.fsync, Path.replace

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def either(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and write % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*arguments)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return either

    os.fsync = counted(flush)
    Path.replace = counted(rename)  # type: ignore[method-assign]


def in_process(config: Config, kill: Kill | None = None) -> float | None:
    """Make a run in a process of its own.

    Returns:
        The seconds that it took; None if it was killed.

    Raises:
        RuntimeError: it failed by itself.
    """
    began = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    process = context.Process(target=run, args=(config, kill.write if kill else None))
    process.start()
    process.join(kill.seconds if kill else None)
    if process.is_alive():
        process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        said = Path(f"{config.output}.said").read_text().splitlines()[-1:]
        raise RuntimeError(f"{config.output}: ended with status {process.exitcode}: {said}")
    return time.perf_counter() - began if process.exitcode == 0 else None


def outcome(folder: Path) -> object:
    """All that a run has found out, without times."""
    numbers = [asdict(record) for record in read_records(folder)] + [asdict(read_summary(folder))]
    for one in numbers:
        for name in CLOCK:
            one.pop(name, None)
    names = ("student.safetensors", "student-best.safetensors")
    return [*((folder / name).read_bytes() for name in names), numbers]


def left_behind(folder: Path) -> str:
    """Where a killed run will go on, in a word."""
    kept = Checkpoints(folder)
    if (folder / "summary.json").exists():
        return "finished"
    if not kept.any():
        return "before_the_first"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checkpoint = kept.load(CPU)
    assert isinstance(checkpoint, Checkpoint)
    if told and kept.newest.exists():
        return "damaged"
    return "between_epochs" if checkpoint.epoch_state is None else "within_an_epoch"


def draw_kill(draw: random.Random, seconds: float) -> Kill:
    """A random moment in a run of so many seconds."""
    if draw.random() < 0.5:
        return Kill(seconds=draw.uniform(0, seconds))
    return Kill(write=draw.randrange(1, 60))


def configured(name: str, folder: Path, output: str) -> TrainConfig:
    """The configuration of a case."""
    options = {**TINY, **CASES[name], "output": str(folder / output)}
    for made in ("teacher", "knowledge"):
        if made in options:
            options[made] = str(folder / options[made])
    kind = DistillConfig if {"teacher", "knowledge"} & set(options) else TrainConfig
    return kind(**options)


def prepare(folder: Path) -> None:
    """The teacher of all cases, and what it knows."""
    teacher = TrainConfig(**{**TINY, "output": str(folder / "teacher"), "seed": 7})
    in_process(teacher)
    in_process(
        CacheConfig(
            output=str(folder / "store"),
            teacher=teacher.output,
            loss="svd",
            train_size=TINY["train_size"],
            augmentation="paper",
            views=2,
            device="cpu",
        )
    )


def kill_and_compare(name: str, folder: Path, whole: object, seconds: float, seed: str) -> Counter:
    """Kill one run again and again, let it end, and count what came of it."""
    draw, counts = random.Random(seed), Counter({"runs": 1})
    config = configured(name, folder, "killed")
    for number in range(KILLS_EACH):
        config = replace(config, resume=number > 0)
        if in_process(config, draw_kill(draw, seconds)) is None:
            counts["kills"] += 1
            counts[left_behind(Path(config.output))] += 1
        if (Path(config.output) / "summary.json").exists():
            break
    if not (Path(config.output) / "summary.json").exists():
        in_process(replace(config, resume=True))
    counts["differ"] += outcome(Path(config.output)) != whole
    shutil.rmtree(config.output)
    return counts


FOUND: Final = ("before_the_first", "within_an_epoch", "between_epochs", "finished", "damaged")


def measure(kills: int, seed: int, cases: list[str], folder: Path) -> list[dict[str, Any]]:
    """A row for each case: runs, kills, where they were resumed, and how many ended otherwise."""
    prepare(folder)
    rows = []
    for name in cases:
        whole = configured(name, folder, "whole")
        seconds = in_process(replace(whole, checkpoint_minutes=0.0))
        assert seconds is not None
        expected, counts = outcome(Path(whole.output)), Counter[str]()
        while counts["kills"] < kills / len(cases):
            one = f"{name} {seed} {counts['runs']}"
            counts += kill_and_compare(name, folder, expected, seconds, one)
        shutil.rmtree(whole.output)
        rows.append({"case": name, **{key: counts[key] for key in ("runs", "kills", *FOUND)}})
        rows[-1]["differ"] = counts["differ"]
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> int:
    """Kill, compare, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of all cases together, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.kills, options.seed, options.cases, Path(folder))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment(), "seed": options.seed, "cases": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row["differ"] or row["damaged"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
