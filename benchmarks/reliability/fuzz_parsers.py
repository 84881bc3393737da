"""Coverage-guided fuzzing of the parsers of the library's own formats.

    python benchmarks/reliability/fuzz_parsers.py [--seconds 60] [--output FILE]

Each parser runs in a process of its own for so many seconds, on inputs that atheris grows from a
good file by what they reach in the library. Whatever a parser raises that is no error of the
library's own is a crash. Needs `pip install atheris` (Linux and macOS), which nothing else does.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

try:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    atheris = None

# atheris sees what a parser reaches in modules that are first imported here.
with atheris.instrument_imports(include=["svdistill"]) if atheris else nullcontext():
    from stored_files import KINDS

    from svdistill.common.errors import SVDistillError
    from svdistill.common.plain_values import from_plain
    from svdistill.runs.directory import stored_values
    from svdistill.runs.records import environment, read_records
    from svdistill.runs.weights import WeightsCard, read_card
    from svdistill.store.manifest import _digest, from_json, read_manifest

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reliability" / "fuzzing.json"
FOLDER = Path(tempfile.mkdtemp())


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A parser of a file, as one of bytes."""

    def parse(content: bytes) -> object:
        path = FOLDER / name
        path.write_bytes(content)
        return read(path)

    return parse


def _manifest(content: bytes) -> object:
    """A manifest whose checksum is right, whatever it says."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value["sha256"] = _digest({key: value[key] for key in value if key != "sha256"})
    path = FOLDER / "manifest.json"
    path.write_text(json.dumps(value))
    return read_manifest(path)


def _structure(content: bytes) -> object:
    try:
        return from_json(json.loads(content))
    except (ValueError, RecursionError):
        return None


def _card(content: bytes) -> object:
    try:
        return from_plain(WeightsCard, json.loads(content))
    except (ValueError, RecursionError):
        return None


# What each parser grows from is the good file of the kind.
PARSERS: dict[str, tuple[Callable[[bytes], object], str]] = {
    "manifest": (_manifest, "manifest of a store"),
    "structure": (_structure, "manifest of a store"),
    "config": (_file("config.yaml", stored_values), "config.yaml"),
    "metrics": (_file("metrics.jsonl", lambda path: read_records(path.parent)), "metrics.jsonl"),
    "card": (_card, "weights with a card"),
    "header": (_file("student.safetensors", read_card), "weights with a card"),
}


def seed_of(name: str) -> bytes:
    """The good input that a parser grows from."""
    kind = KINDS[PARSERS[name][1]]
    path = FOLDER / f"seed-{kind.name}" / kind.name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        kind.make(path)
    content = path.read_bytes()
    if name == "structure":
        return json.dumps(json.loads(content)["structure"]).encode()
    if name == "card":
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return str(header["__metadata__"]["svdistill"]).encode()
    return content


def parse(name: str, content: bytes) -> None:
    """Give a parser an input; what it refuses with an error of the library's own is well."""
    with suppress(SVDistillError):
        PARSERS[name][0](content)


def _fuzz(name: str, seconds: int) -> None:
    """Fuzz one parser until the time is up; libFuzzer ends the process."""
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(seed_of(name))
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-print_final_stats=1", "-seed=1"]
    places = [f"-artifact_prefix={FOLDER}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options, *places], lambda content: parse(name, content))
    atheris.Fuzz()


def measure(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz a parser in a process of its own: executions, what they reached, and crashes."""
    command = [sys.executable, __file__, "--only", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
    reached = re.findall(r"cov: (\d+)", said)
    return {
        "parser": name,
        "seconds": seconds,
        "executions": int(executed[-1]) if executed else 0,
        "coverage": int(reached[-1]) if reached else 0,
        "crashes": int(done.returncode != 0),
        "said": said[-1500:] if done.returncode else "",
    }


def main() -> int:
    """Fuzz each parser, print, write."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--seconds", type=int, default=60, help="for each parser")
    arguments.add_argument("--only", choices=list(PARSERS), help=argparse.SUPPRESS)
    arguments.add_argument("--output", type=Path, default=RESULTS)
    options = arguments.parse_args()
    if atheris is None:
        print("fuzzing needs atheris: pip install atheris", file=sys.stderr)
        return 2
    if options.only:
        _fuzz(options.only, options.seconds)
        return 0
    rows = []
    for name in PARSERS:
        rows.append(measure(name, options.seconds))
        print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="  ", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment(), "atheris": version("atheris"), "parsers": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row["crashes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
