"""What becomes of damaged and hostile files: a thousand mutations of each kind that is read.

    python benchmarks/reliability/mutations.py [--size 1000] [--seed 0] [--output FILE]

Each mutation goes through the library's own reader, in a process that may take 1 GiB more than it
began with, 20 seconds a file. Counted are: `same` (accepted, and it means what it meant), `other`
(accepted with another meaning, as where a digit became another; a kind with a checksum must have
none), `refused` (with an error of the library's own), `traceback`, `crash` (the process died) and
`hang`. The last three must be zero, and the exit status says so. Takes two minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from argparse import ArgumentError as UsageError
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stored_files import KINDS, Kind, meaning

from svdistill.common.errors import SVDistillError
from svdistill.runs.records import environment

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reliability" / "mutations.json"
MOST_MEMORY = 1 << 30
MOST_SECONDS = 20
BAD = ("traceback", "crash", "hang")
# What parsers stumble over: lengths, ends of numbers and texts, characters of other encodings.
PIECES = (
    *(b"\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7, (1 << 63).to_bytes(8, "little")),
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 5000, b'""', b"[]", b"{}", b"[" * 2000),
    *(b"\\ud800", b"\\u0000", b"../../etc/passwd", b"<script>", b"&a [*a,*a]", b"!!python/name:os"),
)


class Hang(BaseException):
    """A reader took too long; no `except Exception` on the way may stop it."""


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three changes: bits, bytes, ranges and pieces at random places."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = draw.randrange(len(changed) + 1)
        end = min(len(changed), place + draw.choice((1, 2, 4, 8, 64, 1024)))
        what = draw.choice(("bit", "bit", "byte", "cut", "remove", "repeat", "piece", "insert"))
        if what == "bit" and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif what == "byte":
            changed[place:end] = draw.randbytes(end - place)
        elif what == "cut":
            del changed[place:]
        elif what == "remove":
            del changed[place:end]
        elif what == "repeat":
            changed[place:place] = changed[place:end] * draw.choice((1, 1, 50))
        elif what == "piece":
            piece = draw.choice(PIECES)
            changed[place : place + len(piece)] = piece
        elif what == "insert":
            changed[place:place] = draw.choice(PIECES)
    return bytes(changed)


def outcome(kind: Kind, path: Path, content: bytes, expected: str) -> tuple[str, str]:
    """What becomes of a file of this content, and of a bad outcome what was raised."""
    path.write_bytes(content)
    try:
        return ("same" if meaning(kind.read(path)) == expected else "other"), ""
    except (SVDistillError, UsageError):
        return "refused", ""
    except Hang:
        return "hang", ""
    except BaseException as error:  # that is what is looked for
        return "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def outcomes(name: str, seed: int, numbers: range, folder: Path) -> Iterator[tuple[str, str]]:
    """The outcome of each numbered mutation of a kind."""
    kind = KINDS[name]
    path = folder / kind.name
    kind.make(path)
    content = path.read_bytes()
    expected = meaning(kind.read(path))
    for number in numbers:
        draw = random.Random(f"{name} {seed} {number}")
        yield outcome(kind, path, mutate(content, draw), expected)


def _bounded(name: str, seed: int, numbers: range, sink: Connection) -> None:
    """`outcomes` in a process of its own, which may die of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # parsers' own complaints
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as folder:
        KINDS[name].make(Path(folder) / KINDS[name].name)  # what readers import takes memory too
        KINDS[name].read(Path(folder) / KINDS[name].name)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        results = outcomes(name, seed, numbers, Path(folder))
        for _ in numbers:
            signal.alarm(MOST_SECONDS)
            result = next(results)
            signal.alarm(0)
            sink.send(result)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Hang


def measure(name: str, seed: int, size: int) -> dict[str, Any]:
    """Counts of the outcomes of one kind; a process that dies is replaced at the next mutation."""
    counts: Counter[str] = Counter()
    examples: list[str] = []
    done, start = 0, time.monotonic()
    while done < size:
        source, sink = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_bounded, args=(name, seed, range(done, size), sink)
        )
        process.start()
        sink.close()
        try:
            while done < size:
                result, said = source.recv()
                counts[result] += 1
                if result in BAD:
                    examples.append(f"{done}: {result} {said}".strip())
                done += 1
        except EOFError:
            process.join()
            counts["crash"] += 1
            examples.append(f"{done}: the process ended with {process.exitcode}")
            done += 1
        process.join()
    return {
        "kind": name,
        "checksum": KINDS[name].checksum,
        "mutations": size,
        **{result: counts[result] for result in ("same", "other", "refused", *BAD)},
        "seconds": round(time.monotonic() - start, 1),
        "examples": examples[:5],
    }


def is_bad(row: dict[str, Any]) -> bool:
    """Whether a kind's row has what must not be."""
    return any(row[result] for result in BAD) or (row["checksum"] and row["other"] > 0)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=1000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for name in options.kinds:
        rows.append(measure(name, options.seed, options.size))
        shown = "  ".join(f"{key} {rows[-1][key]}" for key in ("same", "other", "refused", *BAD))
        print(f"{name:24} {shown}  {rows[-1]['seconds']} s", flush=True)
        for example in rows[-1]["examples"]:
            print(f"    {example}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment(), "seed": options.seed, "kinds": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(map(is_bad, rows)))


if __name__ == "__main__":
    sys.exit(main())
