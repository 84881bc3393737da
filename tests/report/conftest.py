import pytest

from svdistill.report.runs import Run, find_runs
from svdistill.training import DistillConfig, TrainConfig, distill, train


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student of the digits that was taught by SVD for two epochs, its teacher beside it."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {
        "data": "digits",
        "width": 0.1,
        "train_size": 100,
        "augmentation": "none",
        "batch_size": 50,
        "learning_rate": 0.05,
        "device": "cpu",
    }
    teacher, student = str(folder / "teacher"), str(folder / "student")
    train(TrainConfig(output=teacher, network="mobilenet_teacher", epochs=1, **shared))
    distill(
        DistillConfig(
            output=student,
            network="mobilenet_student",
            teacher=teacher,
            num_vectors=2,
            epochs=2,
            seed=3,
            **shared,
        )
    )
    return find_runs([student])[0]
