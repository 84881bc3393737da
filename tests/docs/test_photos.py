"""The tutorial from beginning to end on JPEG photos, and the snippet that needs no svdistill."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fences import DOCS, blocks_of
from PIL import Image
from sklearn.datasets import load_digits
from test_code_blocks import caught_warnings, new_namespace, run_block

from svdistill.cli import main

CLASSES, PER_CLASS = 3, 12
SUFFIXES = (".jpg", ".jpeg", ".JPG")
ORIENTATION = 0x0112  # of EXIF
SHORTER = {
    r"--epochs \d+": "--epochs 1",
    r"--augmentation none": "--augmentation crop_flip --image_size 32",
    r"\.png": ".jp*",
}


def write_photos(folder: Path) -> None:
    """Photos as cameras leave them: of two suffixes, not square, grey or turned by EXIF."""
    digits = load_digits()
    for label in range(CLASSES):
        for number, values in enumerate(digits.images[digits.target == label][:PER_CLASS]):
            split = "train" if number < 0.7 * PER_CLASS else "test"
            path = folder / split / f"digit-{label}" / f"{label}-{number}{SUFFIXES[number % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((values * 15).astype(np.uint8)).resize((48, 36))
            exif = Image.Exif()
            exif[ORIENTATION] = 6 if number % 2 else 1
            mode = "L" if number % 4 == 0 else "RGB"
            picture.convert(mode).save(path, "JPEG", exif=exif, quality=90)


def run_commands(text: str) -> None:
    """Run `svdistill` commands in this process, which imports what they need once."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "svdistill"
        assert main(words[1:]) == 0, line


@pytest.mark.slow
def test_the_tutorial_on_jpeg_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "data")
    namespace = new_namespace(monkeypatch)
    blocks = [block for block in blocks_of(DOCS / "tutorial.md") if block.language != "text"]
    assert "pip install" in blocks[0].text
    assert "load_digits" in blocks[1].text  # the photos take its place
    for block in blocks[2:]:
        text = block.text
        for pattern, instead in SHORTER.items():
            text = re.sub(pattern, instead, text)
        if block.language == "sh":
            run_commands(text)
        else:
            printed = run_block(replace(block, text=text), namespace)
            assert printed.strip() in {f"digit-{label}" for label in range(CLASSES)}
    assert (tmp_path / "runs" / "student" / "report.html").exists()

    snippet = blocks_of(DOCS / "shipping.md")[1]
    run_commands("svdistill export runs/student --include preprocessing")
    photos = [path for path in sorted(Path("data/test").rglob("*")) if path.is_file()]
    capsys.readouterr()
    run_commands("svdistill predict runs/student/student.onnx " + " ".join(map(str, photos)))
    predicted = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    with caught_warnings():
        printed = run_block(
            replace(snippet, text=snippet.text.replace("runs/small/", "runs/student/")), namespace
        )
    assert {path.suffix for path in photos} == set(SUFFIXES)
    assert [Path(path) for path, _ in predicted] == photos
    without = dict(line.rsplit(" ", 1) for line in printed.splitlines())
    assert without == {Path(path).name: name for path, name in predicted}
