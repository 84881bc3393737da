"""The script for a GPU machine runs on a CPU too, on tiny networks."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks/gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, path: Path, *options: str) -> dict:
    script.main(["--device", "cpu", "--quick", "--output", str(path), *options])
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_case_is_checked_or_measured(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(script, tmp_path / "new" / "gpu.json")
    names = [name for name, _ in script.cases()]
    assert set(results) == {"machine", *names}
    assert len(set(names)) == len(names)
    for name in names:
        found = results[name]
        assert "error" not in found, f"{name}: {found}"
        assert found.get("passed", True), f"{name}: {found}"
        assert name.startswith("check: ") or found["images_per_second"] > 0
    shown = capsys.readouterr().out
    assert "step: floor, float32, recorded: " in shown
    assert "1.000 floors" in shown


def test_a_second_call_measures_what_is_left(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def case(name: str, *_: object) -> dict[str, float]:
        calls.append(name)
        if name == "b" and calls.count("b") == 1:
            raise RuntimeError("not this time")
        return {"seconds": 1.0}

    named = [(name, lambda *_, name=name: case(name)) for name in "abc"]
    monkeypatch.setattr(script, "cases", lambda: iter(named))
    path = tmp_path / "gpu.json"
    assert run(script, path)["b"] == {"error": "RuntimeError: not this time"}
    results = run(script, path)
    run(script, path)
    assert calls == ["a", "b", "c", "b"]
    assert results["b"] == {"seconds": 1.0}


def test_without_a_gpu_it_says_so(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        script.main([])
    assert ended.value.code == 2
    assert "no GPU" in capsys.readouterr().err
