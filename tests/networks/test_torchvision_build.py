"""Tests of `prepare_torchvision`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from svdistill.networks.torchvision_models import prepare_torchvision

NEEDS_TORCHVISION = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@NEEDS_TORCHVISION
def test_what_imports_torchvision_imports_well_then() -> None:
    # In a process of its own: an operator is defined once in each.
    code = (
        "from svdistill.networks.torchvision_models import prepare_torchvision as prepare\n"
        "prepare(); prepare()\n"
        "import torchvision; print(torchvision.models.get_model('alexnet') is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_without_torchvision_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdistill.networks.torchvision_models.find_spec", lambda name: None)
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [])
    prepare_torchvision()


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("svdistill.networks.torchvision_models.find_spec", lambda name: object())
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [])
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(RuntimeError, match="no space left"):
        prepare_torchvision()


@pytest.mark.slow
@NEEDS_TORCHVISION
def test_in_the_environment_that_make_makes_timm_is_imported_as_it_is() -> None:
    pytest.importorskip("timm")
    folder = Path(__file__).parents[2] / ".ci"
    whole = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
    if whole.returncode == 0:
        pytest.skip("this torchvision needs no help")
    code = f"import site; site.addsitedir({str(folder)!r}); import timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
