"""How long it takes until svdistill is there: imports and the command line, each a fresh process.

    python benchmarks/import_time.py

All are started in turn, for so many rounds, so that a machine's moods fall on all of them alike;
each time is of a whole process. Prints a line for each and writes `benchmarks/results/import.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from svdistill.common.files import write_json
from svdistill.common.timing import Case, Measurement, interleave
from svdistill_benchmarks.machine import machine
from svdistill_benchmarks.run import make_folder

RESULTS: Final = Path(__file__).resolve().parent / "results" / "import.json"
TORCH: Final = "import torch"
# What is started: its name, and the words after `python`.
STARTED: Final = {
    "python alone": ("-c", ""),
    TORCH: ("-c", "import torch"),
    "import svdistill": ("-c", "import svdistill"),
    "all that a loop of one's own uses": (
        "-c",
        "import torch; import svdistill as sd; sd.Distiller, sd.SVDLoss, sd.pair_taps",
    ),
    "all public names": ("-c", "from svdistill import *"),
    "svdistill --help": ("-m", "svdistill", "--help"),
    "svdistill train --help": ("-m", "svdistill", "train", "--help"),
}


@dataclass(frozen=True)
class Start:
    """How long a process took.

    Attributes:
        name: in `STARTED`.
        seconds: of the whole process.
        beyond_torch: without those of `import torch`, round by round; negative without torch.
    """

    name: str
    seconds: Measurement
    beyond_torch: Measurement


@dataclass(frozen=True)
class ImportTimes:
    """What the file holds."""

    machine: dict[str, Any]
    rounds: int
    rows: tuple[Start, ...]


def start(words: tuple[str, ...]) -> None:
    """Run Python with these words, and wait."""
    # Width of the terminal: the same manual on every machine.
    environment = {**os.environ, "COLUMNS": "100"}
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)


def measure(rounds: int) -> ImportTimes:
    """Start everything once a round, and once before: that fills the disk's cache, uncounted."""
    cases = [Case(name, partial(start, words)) for name, words in STARTED.items()]
    found = dict(zip(STARTED, interleave(cases, rounds), strict=True))
    rows = []
    for name, seconds in found.items():
        pairs = zip(seconds.seconds, found[TORCH].seconds, strict=True)
        rows.append(Start(name, seconds, Measurement.of([mine - torch for mine, torch in pairs])))
    return ImportTimes(machine(), rounds, tuple(rows))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    make_folder(options.output)
    times = measure(options.rounds)
    for row in times.rows:
        beyond = row.beyond_torch.median
        print(f"{row.name:34} {row.seconds.median:6.2f} s   beyond torch {beyond:+6.2f} s")
    write_json(options.output, asdict(times))


if __name__ == "__main__":
    main()
