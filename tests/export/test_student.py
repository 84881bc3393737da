"""From a run to a file: what it says is what the network says, or there is no file."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import svdistill
from svdistill.cli.manual import EXPORT_EXAMPLES
from svdistill.common.errors import ArgumentError, RunError
from svdistill.data import Augmentation, images_from_loaders, load_images
from svdistill.export import ExportReport, export_student, read_shipped_files, student as module
from svdistill.export.exported import metadata_of
from svdistill.networks import build_network
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.runs import load_student
from svdistill.runs.records import read_summary
from svdistill.runs.weights import WeightsCard, read_card, save_weights

# What the manual tells to do, in a process that has neither torch nor svdistill.
PROGRAM = """
import json, sys
import numpy, onnxruntime
images = numpy.load("images.npy")
{manual}
numpy.save("logits.npy", logits)
assert not {{"torch", "svdistill", "onnx"}} & set(sys.modules)
print(json.loads(about["class_names"])[logits[0].argmax()])
"""


def digits(run: Path, count: int) -> torch.Tensor:
    """Digits of the test split, as the run's network takes them."""
    card = read_card(run / "student.safetensors")
    assert card is not None
    batch = next(load_images("digits").test.batches(count, device="cpu", order_seed=0))
    return Augmentation("none", card.image_size, card.mean, card.std).normalise(batch.images)


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_onnx_runs_without_torch_or_svdistill_as_the_manual_says(
    run: Path, onnx_report: ExportReport, tmp_path: Path
) -> None:
    images = next(load_images("digits").test.batches(300, device="cpu", order_seed=1)).images
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1).numpy())
    shutil.copy(onnx_report.path, tmp_path / "student.onnx")
    lines = EXPORT_EXAMPLES.partition("and numpy:\n")[2].splitlines()
    program = PROGRAM.format(manual="\n".join(line.strip() for line in lines))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    card = read_card(run / "student.safetensors")
    assert card is not None
    inputs = Augmentation("none", card.image_size, card.mean, card.std).normalise(images)
    with torch.no_grad():
        expected = load_student(run)(inputs).numpy()
    found = np.load(tmp_path / "logits.npy")
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert abs(found - expected).max() <= 1e-4 * abs(expected).max()
    assert done.stdout.strip() == card.class_names[expected[0].argmax()]


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batches_of_any_size(
    batch_size: int, run: Path, onnx_report: ExportReport, torch_report: ExportReport
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    images = digits(run, batch_size)
    with torch.no_grad():
        expected = load_student(run)(images)
    program = torch.export.load(torch_report.path)
    torch.testing.assert_close(program.module()(images), expected)
    session = runtime.InferenceSession(onnx_report.path)
    assert [value.shape for value in session.get_inputs()] == [["batch", 3, 16, 16]]
    assert [value.shape for value in session.get_outputs()] == [["batch", 10]]
    found = session.run(["logits"], {"images": images.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_what_was_measured_is_kept_beside_the_file(onnx_report: ExportReport) -> None:
    shipped = read_shipped_files(onnx_report.path.parent)
    kept = next(file for file in shipped if file.name == onnx_report.path.name)
    assert (kept.runtime, kept.precision) == ("ONNX Runtime", "float32")
    assert kept.bytes == onnx_report.path.stat().st_size
    assert kept.accuracy == onnx_report.columns[-1].accuracy
    seconds = onnx_report.latencies[1]["ONNX Runtime"].median
    assert kept.milliseconds == pytest.approx(1e3 * seconds)


def test_the_report(run: Path, onnx_report: ExportReport) -> None:
    student = load_student(run)
    assert onnx_report.parameters == sum(weight.numel() for weight in student.parameters())
    pytorch, exported = onnx_report.columns
    assert (pytorch.title, exported.title) == ("PyTorch", "ONNX Runtime")
    assert exported.file_bytes == onnx_report.path.stat().st_size
    assert pytorch.file_bytes == (run / "student.safetensors").stat().st_size
    assert pytorch.accuracy == exported.accuracy
    assert onnx_report.stored_dtypes == ("float32",)
    assert (onnx_report.parity.images, onnx_report.parity.changed) == (200, 0)
    assert 0 <= onnx_report.parity.difference <= 1e-4
    assert list(onnx_report.latencies) == [1, 32]


def test_the_metadata_is_of_the_run(run: Path, torch_report: ExportReport) -> None:
    card, known = read_card(run / "student.safetensors"), torch_report.metadata
    assert card is not None
    assert (known.network, known.width) == ("mobilenet_student", 0.1)
    assert (known.class_names, known.image_size) == (card.class_names, card.image_size)
    assert (known.mean, known.std) == (card.mean, card.std)
    assert known.test_accuracy == read_summary(run).last_accuracy


def test_the_best_epoch_beside_its_run(run: Path) -> None:
    report = export_student(run / "student-best.safetensors", "torch", images=3)
    report.path.unlink()
    assert report.path == run / "student-best.pt2"
    assert report.metadata.test_accuracy == read_summary(run).best_accuracy
    assert report.parity.images == 3


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_files_tell_nothing_of_the_machine(
    name: str, onnx_report: ExportReport, torch_report: ExportReport
) -> None:
    if name == "onnx":
        content = onnx_report.path.read_bytes()
    else:
        with zipfile.ZipFile(torch_report.path) as archive:
            content = b"".join(name.encode() + archive.read(name) for name in archive.namelist())
    machine = {Path(torch.__file__).parents[1], Path(svdistill.__file__).parents[1], Path.cwd()}
    for place in {*machine, Path.home(), torch_report.path.parent, onnx_report.path.parent}:
        assert str(place) == "/" or str(place).encode() not in content
    assert b".py" not in content


@pytest.mark.parametrize("older", [b"older", None])
def test_a_network_that_says_something_else_is_refused(
    older: bytes | None, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(network, image_size):
        program = trace(network, image_size)
        bias = program.state_dict["network.head.2.bias"]
        changed = bias + 1e-2 * torch.eye(len(bias))[0]
        program.state_dict["network.head.2.bias"] = torch.nn.Parameter(changed)
        return program

    trace = module.trace_network
    monkeypatch.setattr(module, "trace_network", tampered)
    output = tmp_path / "student.pt2"
    if older is not None:
        output.write_bytes(older)
    with pytest.raises(RunError, match=r"a difference of \d.*nothing was written"):
        export_student(run, "torch", output)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [older] * (older is not None)


def test_images_of_a_loader(run: Path) -> None:
    pairs = torch.utils.data.TensorDataset(digits(run, 30), torch.arange(30) % 10)
    loader = torch.utils.data.DataLoader(pairs, batch_size=8)
    names = load_images("digits").class_names
    report = export_student(
        run, "torch", data=images_from_loaders(loader, loader, names), images=20
    )
    report.path.unlink()
    assert (report.parity.images, report.parity.changed) == (20, 0)
    with pytest.raises(ArgumentError, match=r"images of 16x16.* got 8x8"):
        export_student(run, "torch", data=load_images("digits", image_size=8))


def test_half_precision_weights_become_float32(run: Path, tmp_path: Path) -> None:
    half = copied(run, tmp_path / "run") / "student.safetensors"
    card = read_card(half)
    assert card is not None
    network = load_student(run).half()
    save_weights(half, network, card)
    report = export_student(half.parent, "torch")
    assert report.path == half.parent / "student.pt2"
    assert report.stored_dtypes == ("float16",)
    weights = torch.export.load(report.path).state_dict.values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float32}


def test_half_a_run(run: Path, tmp_path: Path) -> None:
    half = copied(run, tmp_path / "run")
    (half / "summary.json").unlink()
    with pytest.raises(RunError, match=r"expected a finished run.*--resume"):
        export_student(half)
    card = read_card(half / "student.safetensors")
    assert card is not None
    assert metadata_of(card, half / "student.safetensors").test_accuracy is None


def test_weights_that_another_tool_wrote(run: Path, tmp_path: Path) -> None:
    foreign = copied(run, tmp_path / "run") / "student.safetensors"
    save_file(load_file(foreign), foreign)
    with pytest.raises(RunError, match="weights that svdistill wrote"):
        export_student(foreign.parent)


def test_a_network_of_code_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\n\n\ndef net(num_classes):\n    return nn.Sequential("
    code += "nn.Flatten(), nn.Linear(768, num_classes))\n"
    (tmp_path / "nets_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.safetensors"
    names = tuple(map(str, range(10)))
    card = WeightsCard("nets_of_mine:net", 1.0, names, (0.5,) * 3, (0.5,) * 3, 16)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
    save_weights(own, network, card)
    with pytest.raises(RunError, match=r"nets_of_mine:net.*--network"):
        export_student(own, "torch", data="digits")
    report = export_student(own, "torch", data="digits", images=9, network="nets_of_mine:net")
    images = torch.rand(4, 3, 16, 16)
    found = torch.export.load(report.path).module()(images)
    torch.testing.assert_close(found, network(images))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package(
    package: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArgumentError, match=rf"{package}: .*pip install 'svdistill\[export\]'"):
        export_student(run, output=tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "tflite"}, "format: "),
        ({"images": 0}, "images: "),
        ({"output": "student.pt2"}, "output: .*ending in .onnx"),
        ({"output": "folder"}, "output: .*ending in .onnx"),
    ],
)
def test_bad_values(options: dict, expected: str, run: Path) -> None:
    with pytest.raises(ArgumentError, match=expected):
        export_student(run, **options)


def test_timm(tmp_path: Path) -> None:
    prepare_torchvision()
    pytest.importorskip("timm")
    name = "timm:test_resnet.r160_in1k"
    file = tmp_path / "student.safetensors"
    names = tuple(map(str, range(10)))
    network = build_network(name, num_classes=10)
    save_weights(file, network, WeightsCard(name, 1.0, names, (0.5,) * 3, (0.25,) * 3, 32))
    report = export_student(file, data="digits", images=40)
    assert (report.path.name, report.parity.images) == ("student.onnx", 40)
    assert json.loads(report.metadata.to_strings()["network"]) == name
