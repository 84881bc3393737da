import pytest

from svdistill.config import TrainConfig
from svdistill.export import ExportReport, checks, export_student
from svdistill.training import train


@pytest.fixture(scope="module", autouse=True)
def short_timings():
    """Exported files are timed as few times as still give a median."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "ROUNDS", checks.MIN_ROUNDS)
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run with batch normalisation, to be looked at and never changed."""
    output = tmp_path_factory.mktemp("export") / "run"
    tiny = {"network": "mobilenet_student", "width": 0.1, "train_size": 300, "batch_size": 50}
    train(TrainConfig(output=str(output), augmentation="none", epochs=2, **tiny))
    return output


@pytest.fixture(scope="session")
def onnx_report(run, tmp_path_factory) -> ExportReport:
    """The run as an ONNX file; converting takes a second."""
    return export_student(run, output=tmp_path_factory.mktemp("onnx") / "student.onnx")


@pytest.fixture(scope="session")
def torch_report(run, tmp_path_factory) -> ExportReport:
    """The run as a .pt2 file."""
    return export_student(run, "torch", tmp_path_factory.mktemp("torch") / "student.pt2")
