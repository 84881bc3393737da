"""Preprocessing in the graph, half precision, and the opset."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import Augmentation, images_from_loaders, load_images
from svdistill.export import ExportOptions, export_notes, export_student, read_export_metadata
from svdistill.runs import load_student, read_card

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def test_preprocessing_in_the_graph_with_half_precision_and_an_opset(
    run: Path, tmp_path: Path
) -> None:
    options = ExportOptions(include="preprocessing", precision="fp16", opset=19)
    report = export_student(run, output=tmp_path / "a.onnx", images=40, options=options)
    images = next(load_images("digits").test.batches(60, device="cpu", order_seed=3)).images
    (found,) = runtime.InferenceSession(report.path).run(["logits"], {"images": images.numpy()})
    card = read_card(run / "student.safetensors")
    assert card is not None
    normalise = Augmentation("none", card.image_size, card.mean, card.std).normalise
    with torch.no_grad():
        expected = load_student(run)(normalise(images)).numpy()
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
    ],
)
def test_bad_options(kind: str, options: ExportOptions, expected: str, run: Path) -> None:
    with pytest.raises(ArgumentError, match=expected):
        export_student(run, kind, options=options)
