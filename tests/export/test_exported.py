"""Image files in, class names and probabilities out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from svdistill.cli import main
from svdistill.common.errors import ArgumentError, DataError, RunError
from svdistill.export import ExportOptions, ExportReport, export_student, predict
from svdistill.runs import load_student, read_card


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images of other shapes, formats and colour modes."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "wide.png")
    Image.fromarray(noise[:, :20]).save(folder / "high.JPEG")
    Image.fromarray(noise[:, :, 0]).save(folder / "grey.bmp")
    return [folder / name for name in ("wide.png", "high.JPEG", "grey.bmp")]


def expected_probabilities(run: Path, photos: list[Path]) -> torch.Tensor:
    card = read_card(run / "student.safetensors")
    assert card is not None
    pixels = [
        ImageOps.fit(Image.open(photo).convert("RGB"), (16, 16), Image.Resampling.BILINEAR)
        for photo in photos
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
    with torch.no_grad():
        return load_student(run)((images - mean) / std).softmax(1)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_equals_the_network_on_prepared_images(
    kind: str, run: Path, onnx_report: ExportReport, torch_report: ExportReport, photos: list[Path]
) -> None:
    report = onnx_report if kind == "onnx" else torch_report
    expected = expected_probabilities(run, photos)
    names = report.metadata.class_names
    found = predict(report.path, photos, top=99)
    assert [prediction.path for prediction in found] == photos
    for prediction, row in zip(found, expected, strict=True):
        assert len(prediction.classes) == len(names)
        shares = [share for _, share in prediction.classes]
        assert shares == sorted(shares, reverse=True)
        by_name = dict(prediction.classes)
        torch.testing.assert_close(
            torch.tensor([by_name[name] for name in names]), row, rtol=1e-4, atol=1e-5
        )


def test_the_command_with_a_file_that_takes_uint8(
    run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ExportOptions(include="preprocessing")
    report = export_student(run, "torch", tmp_path / "a.pt2", images=9, options=options)
    assert main(["predict", str(report.path), *map(str, photos), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = expected_probabilities(run, photos)
    for line, photo, row in zip(lines, photos, expected, strict=True):
        name = report.metadata.class_names[int(row.argmax())]
        assert line.startswith(f"{photo}   {name} {100 * row.max():.1f} %   ")


def test_files_that_are_no_images(
    torch_report: ExportReport, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    shutil.copy(photos[0], tmp_path / "image.png")
    for name in ("notes.jpg", "missing.png", "."):
        with pytest.raises(DataError, match=str(tmp_path)):
            predict(torch_report.path, [tmp_path / "image.png", tmp_path / name])


def test_bad_values(torch_report: ExportReport, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^images: .*at least one"):
        predict(torch_report.path, [])
    with pytest.raises(ArgumentError, match=r"^images: expected a list"):
        predict(torch_report.path, str(photos[0]))
    with pytest.raises(ArgumentError, match=r"^top: "):
        predict(torch_report.path, photos, top=0)
    with pytest.raises(RunError, match="svdistill export wrote"):
        predict(tmp_path / "missing.pt2", photos)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_damaged_file(
    kind: str, onnx_report: ExportReport, torch_report: ExportReport, tmp_path: Path
) -> None:
    path = (onnx_report if kind == "onnx" else torch_report).path
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(RunError, match="svdistill export wrote"):
        predict(damaged, ["image.png"])
