import pytest

from svdistill.config import DistillConfig, TrainConfig
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.report.runs import Run, find_runs
from svdistill.training import distill, train

SHARED = {
    "data": "digits",
    "train_size": 100,
    "augmentation": "none",
    "batch_size": 50,
    "learning_rate": 0.05,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student of the digits that was taught by SVD for two epochs, its teacher beside it."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {"width": 0.1, **SHARED}
    teacher, student = str(folder / "teacher"), str(folder / "student")
    train(TrainConfig(output=teacher, network="mobilenet_teacher", epochs=1, **shared))
    distill(
        DistillConfig(
            output=student,
            network="mobilenet_student",
            teacher=teacher,
            loss="svd",
            num_vectors=2,
            epochs=2,
            seed=3,
            **shared,
        )
    )
    return find_runs([student])[0]


@pytest.fixture(scope="session")
def of_timm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A vision transformer that a residual network taught, both of timm and tiny."""
    prepare_torchvision()
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("timm")
    teacher, student = str(folder / "teacher"), str(folder / "student")
    shared = {"image_size": 32, "epochs": 1, **SHARED}
    train(TrainConfig(output=teacher, network="timm:test_resnet", **shared))
    options = {"network": "timm:test_vit", "loss": "svd", "seed": 3}
    distill(DistillConfig(output=student, teacher=teacher, **options, **shared))
    return find_runs([student])[0]
