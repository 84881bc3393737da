"""An example as a script and as a module, where torchvision may be of another build of torch."""

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from svdistill.networks.torchvision_models import prepare_torchvision

EXAMPLES = Path(__file__).parents[2] / "examples"


def name_of(request: pytest.FixtureRequest) -> str:
    """Of the example that the test file is named after."""
    return request.path.stem.removeprefix("test_")


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest) -> ModuleType:
    """The example, imported."""
    prepare_torchvision()
    return importlib.import_module(name_of(request))


@pytest.fixture
def run_script(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Run the example as a script; what it prints."""

    def run() -> str:
        prepare_torchvision()
        runpy.run_path(str(EXAMPLES / f"{name_of(request)}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run
