import json

import numpy as np
import pytest
from PIL import Image

from made_runs import NUMBERS
from svdistill.common.errors import RunError
from svdistill.report import plot_curves


def run_directory(path, accuracies):
    path.mkdir()
    lines = [
        json.dumps({**NUMBERS, "epoch": epoch, "test_accuracy": accuracy})
        for epoch, accuracy in enumerate(accuracies)
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_lines_and_bands_are_drawn(tmp_path):
    steep = [run_directory(tmp_path / f"steep{seed}", [10, 50 + seed, 90]) for seed in range(3)]
    flat = run_directory(tmp_path / "flat", [10, 12, 14])
    picture = tmp_path / "curves.png"
    plot_curves([("flat", flat)], picture, "one")
    one = np.asarray(Image.open(picture).convert("RGB"))
    plot_curves([*(("steep", run) for run in steep), ("flat", flat)], picture, "two")
    two = np.asarray(Image.open(picture).convert("RGB"))
    assert one.shape == two.shape
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in (one, two)]
    assert colours[1] > colours[0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["curves.png"]


def test_svg_says_what_it_shows(tmp_path):
    picture = tmp_path / "curves.svg"
    plot_curves([("alone", run_directory(tmp_path / "run", [10, 20]))], picture, "Title")
    assert picture.read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("content", [None, "not json\n", '{"epoch": 1}\n'])
def test_a_damaged_run_is_named(tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "metrics.jsonl").write_text(content)
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        plot_curves([("alone", run)], tmp_path / "curves.png", "Title")
    assert not (tmp_path / "curves.png").exists()
