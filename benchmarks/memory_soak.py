"""Resident memory over many training steps with `svdistill.keep_memory`: it must not keep growing.

    nice python benchmarks/memory_soak.py

Trains a tiny student with the default losses, in one process. Every tenth batch is smaller, as an
epoch's last one is, so that freed blocks of different sizes mix. Prints the resident memory every
100 steps and writes benchmarks/results/memory-soak.json. The exit status is 1 if memory grew by
more than 2 % over the second half.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

import svdistill as sd
from svdistill.common import write_json
from svdistill_benchmarks.machine import machine

RESULTS: Final = Path(__file__).resolve().parent / "results" / "memory-soak.json"
EVERY: Final = 100  # steps between two measurements
BATCHES: Final = (*(64,) * 9, 23)
GROWTH_BOUND: Final = 0.02


@dataclass(frozen=True)
class MemorySoak:
    """What was measured.

    Attributes:
        machine: see `svdistill_benchmarks.machine`.
        kept: whether `keep_memory` set the allocator.
        steps: number of training steps.
        seconds: time of all steps.
        resident_mb: resident memory before training, and after every `EVERY` steps.
        growth: of the second half: the last value over the one in the middle, less 1.
    """

    machine: dict[str, Any]
    kept: bool
    steps: int
    seconds: float
    resident_mb: tuple[float, ...]
    growth: float


def network(channels: int) -> nn.Sequential:
    """Build a network of two stages; its feature maps take a megabyte, above glibc's thresholds."""

    def stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    head = nn.Linear(2 * channels * 16, 10)
    return nn.Sequential(stage(1, channels), stage(channels, 2 * channels), nn.Flatten(), head)


def soak(steps: int, keep: bool) -> MemorySoak:
    """Train for `steps` steps, and record the resident memory."""
    kept = keep and sd.keep_memory()
    torch.manual_seed(0)
    distiller = sd.Distiller(
        network(channels=24),
        network(channels=16),
        sd.PositionSVDLoss(),
        taps=["0", "1"],
        clip="amortised",
        unclipped=sd.SoftTargetLoss(),
    )
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.01, momentum=0.9)
    resident = [_resident_mb()]
    began = time.perf_counter()
    for step in range(steps):
        count = BATCHES[step % len(BATCHES)]
        out = distiller(torch.randn(count, 1, 16, 16))
        task_loss = F.cross_entropy(out.logits, torch.randint(10, (count,)))
        distiller.backward(task_loss, out, progress=step / steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0:
            resident.append(_resident_mb())
            print(f"step {step + 1:5}  {resident[-1]:8.1f} MB", flush=True)
    growth = resident[-1] / resident[len(resident) // 2] - 1
    seconds = time.perf_counter() - began
    return MemorySoak(machine(), kept, steps, seconds, tuple(resident), growth)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--keep_memory", choices=("true", "false"), default="true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    result = soak(options.steps, options.keep_memory == "true")
    write_json(options.output, asdict(result))
    print(f"growth over the second half: {100 * result.growth:.2f} %; {options.output}")
    return int(result.growth > GROWTH_BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
