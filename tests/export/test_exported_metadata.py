"""What an exported file says of itself."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from svdistill.common.errors import ArgumentError, RunError
from svdistill.export import ExportMetadata, ExportReport, read_export_metadata


def test_round_trip(onnx_report: ExportReport, torch_report: ExportReport) -> None:
    assert read_export_metadata(onnx_report.path) == onnx_report.metadata
    assert read_export_metadata(str(torch_report.path)) == torch_report.metadata
    assert onnx_report.metadata == torch_report.metadata


def test_unusual_values_survive(onnx_report: ExportReport) -> None:
    metadata = replace(
        onnx_report.metadata,
        class_names=('"quoted", with comma', "übung", ""),
        mean=(1 / 3, 0.1, 1e-9),
        test_accuracy=None,
    )
    assert ExportMetadata.from_strings(metadata.to_strings()) == metadata


def test_torch_gives_the_same_texts(torch_report: ExportReport) -> None:
    torch = pytest.importorskip("torch")
    extra = {"class_names": "", "mean": ""}
    torch.export.load(torch_report.path, extra_files=extra)
    assert tuple(json.loads(extra["class_names"])) == torch_report.metadata.class_names
    assert tuple(json.loads(extra["mean"])) == torch_report.metadata.mean


def test_preparing_an_image_is_described(onnx_report: ExportReport) -> None:
    texts = {name: json.loads(text) for name, text in onnx_report.metadata.to_strings().items()}
    assert (texts["layout"], texts["colour_order"]) == ("NCHW", "RGB")
    assert texts["value_range"] == [0.0, 1.0]
    assert "middle square" in texts["resize"]


@pytest.mark.parametrize("name", ["student.onnx", "student.pt2"])
@pytest.mark.parametrize("content", [None, b"", b"damaged" * 9])
def test_files_of_something_else(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=r"student.*svdistill export wrote"):
        read_export_metadata(tmp_path / name)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("other/extra/notes", "[]")
    with pytest.raises(RunError, match="KeyError"):
        read_export_metadata(tmp_path / "other.pt2")


def test_an_unknown_ending() -> None:
    with pytest.raises(ArgumentError, match=r"ending in \.onnx or \.pt2"):
        read_export_metadata("student.tflite")
