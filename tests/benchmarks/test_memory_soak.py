import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks/results/memory-soak.json"


def test_a_short_soak_is_measured(
    load_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("memory_soak")
    monkeypatch.setattr(script, "EVERY", 1)
    monkeypatch.setattr(script, "BATCHES", (4, 3))
    output = tmp_path / "soak.json"
    assert script.main(["--steps", "4", "--keep_memory", "false", "--output", str(output)]) in (
        0,
        1,
    )
    measured = json.loads(output.read_text())
    assert (measured["kept"], measured["steps"], len(measured["resident_mb"])) == (False, 4, 5)
    assert min(measured["resident_mb"]) > 10


def test_the_committed_soak_did_not_grow() -> None:
    measured = json.loads(COMMITTED.read_text())
    assert measured["kept"]
    assert measured["steps"] >= 2000
    assert measured["growth"] <= 0.02
