"""The paper's large data sets, from files to a trained network."""

import numpy as np
import pytest

from imagenet_files import IMAGENET_WNIDS, write_imagenet, write_tiny_imagenet
from picture_files import in_order
from svdistill.cli import main
from svdistill.data import load_images
from svdistill.runs.weights import read_card

TRAIN = ["train", "--network", "vgg_student", "--width", "0.05", "--epochs", "1", "--device", "cpu"]


@pytest.fixture
def imagenet(tmp_path):
    return write_imagenet(tmp_path / "imagenet")


def test_classes_drawn_from_imagenet(imagenet):
    whole = load_images(f"folder:{imagenet}", image_size=64)
    assert whole.class_names == IMAGENET_WNIDS
    data = load_images(f"folder:{imagenet}", image_size=64, classes="3@0")
    assert data.image_shape == (3, 64, 64)
    assert data.class_names == ("n01443537", "n01484850", "n01491361")
    kept = [whole.class_names.index(name) for name in data.class_names]
    for name, count in (("train", 4), ("test", 2)):
        images, labels = in_order(getattr(whole, name))
        ours = in_order(getattr(data, name))
        assert np.array_equal(ours[0], images[np.isin(labels, kept)])
        assert ours[1].tolist() == [0] * count + [1] * count + [2] * count


def test_a_network_learns_from_drawn_classes(imagenet, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--data", f"folder:{imagenet}", "--image_size", "64", "--classes", "3@0"]
    assert main([*TRAIN, *options, "--output", str(run)]) == 0
    card = read_card(run / "student.safetensors")
    assert card.class_names == ("n01443537", "n01484850", "n01491361")
    assert card.image_size == 64
    trained = capsys.readouterr().out
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    evaluated = capsys.readouterr().out
    assert "6 images" in evaluated
    assert evaluated.split()[1] in trained


def test_a_network_learns_from_tiny_imagenet(tmp_path, capsys):
    run = tmp_path / "run"
    data = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    assert main([*TRAIN, "--data", f"tiny_imagenet:{data}", "--output", str(run)]) == 0
    card = read_card(run / "student.safetensors")
    assert (len(card.class_names), card.image_size) == (4, 64)
    # As runs were written before classes could be drawn.
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("classes: null\n", ""))
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    assert "5 images" in capsys.readouterr().out


@pytest.mark.parametrize("classes", ["3", "3@", "seven", "7@0"])
def test_a_draw_that_cannot_be_stops_before_a_run(imagenet, tmp_path, capsys, classes):
    options = ["--data", f"folder:{imagenet}", "--image_size", "64", "--classes", classes]
    assert main([*TRAIN, *options, "--output", str(tmp_path / "run")]) == 2
    assert "classes: expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
