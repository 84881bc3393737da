"""The script that times imports, on processes that do little."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from svdistill_benchmarks.run import read_result

ROOT = Path(__file__).resolve().parents[2]


def test_times_whole_processes(
    load_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("import_time")
    slow = ("-c", "import time; time.sleep(0.2)")
    monkeypatch.setattr(script, "STARTED", {script.TORCH: ("-c", ""), "slow": slow})
    path = tmp_path / "new" / "import.json"
    monkeypatch.setattr(sys, "argv", ["import_time.py", "--rounds", "2", "--output", str(path)])
    script.main()
    torch, slow = read_result(path, script.ImportTimes).rows
    assert slow.beyond_torch.median > 0.1
    assert torch.beyond_torch.seconds == (0.0, 0.0)
    assert slow.seconds.median > slow.beyond_torch.median
    assert "slow" in capsys.readouterr().out


def test_a_process_that_fails_is_not_timed(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script("import_time")
    with pytest.raises(script.subprocess.CalledProcessError):
        script.start(("-c", "raise SystemExit(1)"))


def test_the_committed_times_are_of_what_is_started_now(
    load_script: Callable[[str], ModuleType],
) -> None:
    script = load_script("import_time")
    committed = json.loads(script.RESULTS.read_text())
    beyond = {row["name"]: row["beyond_torch"]["median"] for row in committed["rows"]}
    assert list(beyond) == list(script.STARTED)
    assert beyond["all that a loop of one's own uses"] < 1.5
    assert beyond["import svdistill"] < 0  # torch is not imported at all
    assert beyond["svdistill --help"] < 0
