"""Numbers under attack: ten thousand hard cases of the losses, the decomposition and the step.

    python benchmarks/reliability/fuzz.py [--cases 10000] [--seed 0] [--first 0] [--output FILE]

Each case follows from the seed and its number: `--seed S --first N --cases 1` runs it again and
says what it is. Shapes, dtypes, spectra, scales and where NaN and infinity stand are drawn by
`hard_features.py` and `fuzz_cases.py`; what must hold is in `fuzz_checks.py`. Exit status 1 if it
does not. Takes a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzz_cases import Case, make_case
from fuzz_checks import Found, check, check_step

from svdistill.runs.records import environment

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reliability" / "numbers.json"
GOOD = ("finite", "error")
COUNTS = ("cases", "not finite", *GOOD, "refused finite", "failed")


def run(seed: int, number: int) -> tuple[str, bool, str, Found]:
    """A numbered case: its kind, whether it had NaN or infinity, what it is, and what was found."""
    case = make_case(seed, number)
    if isinstance(case, Case):
        return case.kind, bool(case.broken), str(case), check(case)
    return case.kind, bool({"nan", "inf"} & {*case.kinds}), str(case), check_step(case)


class Report:
    """Adds up what was found."""

    def __init__(self) -> None:
        self.kinds: dict[str, Counter[str]] = {}
        self.failures: list[dict[str, Any]] = []
        self.decomposed = self.recomputed = 0
        self.defects: dict[str, float] = {}
        self.gradients: dict[str, list[float]] = {}
        self.neighbours: list[float] = []

    def add(self, number: int, kind: str, broken: bool, case: str, found: Found) -> None:
        """One case."""
        counts = self.kinds.setdefault(kind, Counter())
        counts["cases"] += 1
        counts["not finite"] += broken
        counts[found.outcome if found.outcome in GOOD else "failed"] += 1
        # An error where all numbers were finite: too large to multiply, or nothing to compare.
        counts["refused finite"] += found.outcome == "error" and not broken
        if found.outcome not in GOOD:
            failure = {"case": number, "outcome": found.outcome, "what": case, "said": found.said}
            self.failures.append(failure)
            print(*(f"{key}: {value}" for key, value in failure.items()), sep="\n  ", flush=True)
        self.decomposed += found.decomposed
        self.recomputed += found.recomputed
        for dtype, defect in found.defects.items():
            self.defects[dtype] = max(self.defects.get(dtype, 0.0), defect)
        for dtype, error in found.gradient_errors.items():
            self.gradients.setdefault(dtype, []).append(error)
        if found.neighbour_error is not None:
            self.neighbours.append(found.neighbour_error)

    def as_json(self) -> dict[str, Any]:
        """What benchmarks/write_tables.py reads."""
        return {
            "kinds": [
                {"kind": kind, **{count: counts[count] for count in COUNTS}}
                for kind, counts in sorted(self.kinds.items())
            ],
            "decomposed": self.decomposed,
            "recomputed": self.recomputed,
            "orthonormality": self.defects,
            "gradients": {
                dtype: {"checked": len(errors), "median": median(errors), "worst": max(errors)}
                for dtype, errors in sorted(self.gradients.items())
            },
            "neighbours": {
                "checked": len(self.neighbours),
                "to the bit": sum(error == 0.0 for error in self.neighbours),
                "worst": max(self.neighbours, default=0.0),
            },
            "failures": self.failures,
        }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="not written for a single case"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}, cases {options.first} to {options.first + options.cases - 1}")
    report, start = Report(), time.monotonic()
    for number in range(options.first, options.first + options.cases):
        kind, broken, case, found = run(options.seed, number)
        report.add(number, kind, broken, case, found)
        if options.cases == 1:
            print(case, json.dumps(asdict(found), indent=1), sep="\n")
        elif (number + 1) % 1000 == 0:
            seconds = time.monotonic() - start
            print(f"{number + 1} done, {len(report.failures)} failed, {seconds:.0f} s", flush=True)
    result = {
        "environment": environment(),
        "seed": options.seed,
        "first": options.first,
        "cases": options.cases,
        "seconds": round(time.monotonic() - start, 1),
        **report.as_json(),
    }
    if options.cases > 1:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({key: result[key] for key in result if key != "failures"}, indent=1))
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
