"""Every recipe is one that `svdistill distill` takes, and says what its row in results/ did."""

from pathlib import Path

import pytest
import yaml

from svdistill.cli import main
from svdistill.config import TrainConfig
from svdistill.paper.plan import find_methods
from svdistill.paper.presets import PRESETS
from svdistill.report import find_runs
from svdistill.training import train

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("recipes") / "teacher"
    options = {"data": "digits", "network": "mobilenet_teacher", "width": 0.1, "device": "cpu"}
    train(TrainConfig(output=str(run), train_size=100, epochs=1, augmentation="none", **options))
    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, teacher: Path, tmp_path: Path) -> None:
    words = [
        *("distill", "--config", str(recipe), "--teacher", str(teacher), "--data", "digits"),
        *("--network", "mobilenet_student", "--width", "0.1", "--train_size", "100"),
        *("--augmentation", "none", "--epochs", "1", "--device", "cpu"),
        *("--output", str(tmp_path / "run")),
    ]
    assert main(words) == 0
    (run,) = find_runs([tmp_path / "run"])
    said = yaml.safe_load(recipe.read_text())
    assert {name: run.config[name] for name in said} == said


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_row_of_its_name_in_the_preset_mini(recipe: Path) -> None:
    said = yaml.safe_load(recipe.read_text())
    (method,) = find_methods((recipe.stem.replace("_", "-"),))
    assert method.options.items() <= said.items()
    assert said["max_grad_norm"] == PRESETS["mini"].student.max_grad_norm
