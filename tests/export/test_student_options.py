"""Preprocessing in the graph, half precision, and the opset."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import Augmentation, images_from_loaders, load_images
from svdistill.export import (
    ExportOptions,
    export_notes,
    export_student,
    read_export_metadata,
    student,
)
from svdistill.export.checks import require_accuracy
from svdistill.runs import load_student, read_card

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def normalised(run: Path, images: torch.Tensor) -> torch.Tensor:
    card = read_card(run / "student.safetensors")
    assert card is not None
    return Augmentation("none", card.image_size, card.mean, card.std).normalise(images)


def test_preprocessing_in_the_graph_with_half_precision_and_an_opset(
    run: Path, tmp_path: Path
) -> None:
    options = ExportOptions(include="preprocessing", precision="fp16", opset=19)
    report = export_student(run, output=tmp_path / "a.onnx", images=40, options=options)
    images = next(load_images("digits").test.batches(60, device="cpu", order_seed=3)).images
    (found,) = runtime.InferenceSession(report.path).run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = load_student(run)(normalised(run, images)).numpy()
    assert found.dtype == np.float32
    assert 0 < abs(found - expected).max() <= 1e-2 * abs(expected).max()
    model = onnx.load(report.path)
    assert model.opset_import[0].version == 19
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in kinds
    known = read_export_metadata(report.path)
    assert (known.input_dtype, known.precision) == ("uint8", "fp16")
    assert any("tolerance 0.01" in note for note in export_notes(report))
    assert report.columns[1].file_bytes < report.columns[0].file_bytes


def test_preprocessing_in_a_pt2_file_equals_ours(run: Path, tmp_path: Path) -> None:
    options = ExportOptions(include="preprocessing")
    report = export_student(run, "torch", tmp_path / "a.pt2", images=20, options=options)
    assert report.parity.difference <= 1e-6
    network = torch.export.load(report.path).module()
    images = next(load_images("digits").test.batches(5, device="cpu", order_seed=3)).images
    about = {name: json.loads(text) for name, text in report.metadata.to_strings().items()}
    mean, std = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = load_student(run)((images / 255 - mean) / std)
    torch.testing.assert_close(network(images), expected)


def test_an_opset_that_the_exporter_does_not_write(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^opset: .*such as 18, got 99"):
        export_student(run, output=tmp_path / "a.onnx", options=ExportOptions(opset=99))
    assert list(tmp_path.iterdir()) == []


def test_normalised_images_of_a_loader_cannot_test_preprocessing(run: Path) -> None:
    pairs = torch.utils.data.TensorDataset(torch.rand(20, 3, 16, 16), torch.arange(20) % 10)
    loader = torch.utils.data.DataLoader(pairs, batch_size=10)
    data = images_from_loaders(loader, loader, load_images("digits").class_names)
    with pytest.raises(ArgumentError, match=r"^data: .*uint8.*leave --include out"):
        export_student(run, "torch", data=data, options=ExportOptions(include="preprocessing"))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("onnx", ExportOptions(include="resize"), r"^include: .*'preprocessing'"),
        ("onnx", ExportOptions(precision="bf16"), r"^precision: .*'fp16'"),
        ("onnx", ExportOptions(opset=0), r"^opset: expected an integer"),
        ("torch", ExportOptions(opset=18), r"^opset: .*leave it out"),
        ("torch", ExportOptions(quantize="int8"), r"^quantize: .*leave it out"),
        ("onnx", ExportOptions(quantize="int4"), r"^quantize: .*'int8'"),
        ("onnx", ExportOptions(quantize="int8", precision="fp16"), r"^quantize: .*float32"),
        ("onnx", ExportOptions(tolerance=-1.0), r"^tolerance: "),
        ("onnx", ExportOptions(tolerance=float("nan")), r"^tolerance: "),
    ],
)
def test_bad_options(kind: str, options: ExportOptions, expected: str, run: Path) -> None:
    with pytest.raises(ArgumentError, match=expected):
        export_student(run, kind, options=options)


def test_int8(run: Path, tmp_path: Path) -> None:
    options = ExportOptions(include="preprocessing", quantize="int8", tolerance=100)
    report = export_student(run, output=tmp_path / "a.onnx", images=100, options=options)
    assert [column.title for column in report.columns] == ["PyTorch", "ONNX Runtime", "int8"]
    assert list(report.latencies[1]) == ["PyTorch", "ONNX Runtime", "int8"]
    assert report.columns[2].file_bytes == report.path.stat().st_size
    assert read_export_metadata(report.path).precision == "int8"
    batch = next(load_images("digits").test.batches(300, device="cpu", order_seed=0))
    session = runtime.InferenceSession(report.path)
    (logits,) = session.run(["logits"], {"images": batch.images.numpy()})
    with torch.no_grad():
        expected = load_student(run)(normalised(run, batch.images))
    agreement = (torch.from_numpy(logits).argmax(1) == expected.argmax(1)).float().mean()
    assert agreement > 0.8
    weights = [w for w in onnx.load(report.path).graph.initializer if len(w.dims) == 4]
    assert onnx.TensorProto.INT8 in {weight.data_type for weight in weights}
    assert report.columns[2].file_bytes < report.columns[1].file_bytes


def test_int8_that_loses_accuracy_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantize_onnx(content: bytes, _metadata: object, images: torch.Tensor) -> bytes:
        assert images.shape == (256, 3, 16, 16)
        return content

    accuracies = iter([90.0, 90.0, 88.9])  # of PyTorch, float32 and int8
    monkeypatch.setattr(student, "quantize_onnx", quantize_onnx)
    monkeypatch.setattr(student, "accuracy", lambda _logits, _labels: next(accuracies))
    options = ExportOptions(include="preprocessing", quantize="int8")
    with pytest.raises(RunError, match=r"at least 89.00 %, 1 below float32, got 88.90 %; nothing"):
        export_student(run, output=tmp_path / "a.onnx", images=20, options=options)
    assert list(tmp_path.iterdir()) == []


def test_the_tolerance_of_int8() -> None:
    require_accuracy("a.onnx", 90.0, 89.0, 1.0)
    require_accuracy("a.onnx", 90.0, 91.0, 0.0)
    with pytest.raises(RunError, match="or a higher --tolerance"):
        require_accuracy("a.onnx", 90.0, 89.99, 0.0)
