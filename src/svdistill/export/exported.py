"""Use an exported file: read its metadata (classes and preprocessing), and classify images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from svdistill.common import (
    ArgumentError,
    Finite,
    RunError,
    from_plain,
    in_short,
    require_count,
    require_package,
)
from svdistill.data import Augmentation, decode_files
from svdistill.export.formats import BATCH_SIZE, format_of
from svdistill.runs import RunDirectory, WeightsCard, read_summary


@dataclass(frozen=True)
class ExportMetadata:
    """What a program needs to know to use an exported network.

    The network maps ``images`` ``[batch, 3, image_size, image_size]`` to ``logits``, float32
    ``[batch, classes]``. If `input_dtype` is ``"uint8"``, pixels from 0 to 255 are passed
    unchanged. If it is ``"float32"``, a pixel ``p`` is passed as ``(p / 255 - mean) / std``, with
    a mean and a standard deviation for each channel.

    Attributes:
        network: name of the network.
        width: factor on the network's channel counts.
        class_names: names of the classes, in the order of the logits.
        image_size: side of the images in pixels.
        mean, std: mean and standard deviation of each channel, for pixels in `value_range`.
        value_range: range of the pixels before mean and std are applied.
        colour_order: order of the channels.
        layout: order of the axes: batch (N), channels (C), height (H), width (W).
        resize: how an image of another size is resized.
        input_dtype: dtype of ``images``, ``"float32"`` or ``"uint8"``.
        precision: number format in which the network computes: ``"float32"``, ``"fp16"`` or
            ``"int8"``.
        test_accuracy: test accuracy of the run's weights in percent; None if it is not known.
        svdistill_version: version of svdistill that wrote the file.
    """

    network: str
    width: Finite
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[Finite, ...]
    std: tuple[Finite, ...]
    test_accuracy: float | None
    svdistill_version: str
    value_range: tuple[float, ...] = (0.0, 1.0)
    colour_order: str = "RGB"
    layout: str = "NCHW"
    resize: str = "cut out the middle square, then resize it (bilinear, antialiased)"
    input_dtype: str = "float32"
    precision: str = "float32"

    def to_strings(self) -> dict[str, str]:
        """A dictionary from the name of each field to its value as JSON.

        Example:
            >>> metadata = ExportMetadata("a", 1.0, ("x", "y"), 32, (0.5,), (0.2,), None, "1.0")
            >>> metadata.to_strings()["class_names"]
            '["x", "y"]'
        """
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> ExportMetadata:
        """Build the metadata from a dictionary that `to_strings` returned.

        Raises:
            KeyError, ValueError: a field is missing, is not JSON, or has another type.
        """
        return from_plain(cls, {field.name: json.loads(texts[field.name]) for field in fields(cls)})


def metadata_of(card: WeightsCard, weights: Path) -> ExportMetadata:
    """The metadata for a float32 export of a weights file, with its run's test accuracy."""
    return ExportMetadata(
        network=card.network,
        width=card.width,
        class_names=card.class_names,
        image_size=card.image_size,
        mean=card.mean,
        std=card.std,
        test_accuracy=_test_accuracy(RunDirectory(weights.parent), weights),
        svdistill_version=version("svdistill"),
    )


def _test_accuracy(run: RunDirectory, weights: Path) -> float | None:
    """The test accuracy of these weights in the run's summary; None if it does not list them."""
    if not run.summary.exists() or weights not in (run.student, run.best_student):
        return None
    summary = read_summary(run.path)
    return summary.last_accuracy if weights == run.student else summary.best_accuracy


def read_export_metadata(path: str | Path) -> ExportMetadata:
    """Read the metadata of a file that `export_student` wrote, without loading its network.

    Programs without svdistill find the same strings in the ``metadata_props`` of an ONNX file and
    in the ``extra_files`` of a .pt2 file.

    Args:
        path: the .onnx or .pt2 file.

    Returns:
        Class names, preprocessing, and the other fields of `ExportMetadata`.

    Raises:
        ArgumentError: the file is neither .onnx nor .pt2, or the package that reads it is missing.
        RunError: the file is missing, damaged, or was written by another program.
    """
    file = Path(path)
    file_format = format_of(file)
    try:
        return ExportMetadata.from_strings(file_format.read_metadata(file))
    except ArgumentError:
        raise
    except Exception as error:  # each format's library has errors of its own
        raise _unusable(file, error) from error


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
        path: path of the image file.
        classes: pairs of a class name and its probability, the most probable first.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]


def predict(
    file: str | Path, images: Sequence[str | Path], *, top: int = 1
) -> tuple[Prediction, ...]:
    """Classify image files with an exported network, on the CPU.

    Images are prepared as the metadata of the file says: the middle square is cut out and resized,
    and its pixels are normalised, unless the exported network does so itself. The probabilities
    are the softmax of the logits.

    Args:
        file: an .onnx or .pt2 file that `export_student` wrote.
        images: paths of image files of any size, in a format that Pillow reads.
        top: number of most probable classes to return for each image.

    Returns:
        One prediction per image, in the order of `images`.

    Raises:
        ArgumentError: there are no images, a value is invalid, or the package that runs the file
            is missing.
        RunError: the file is missing, damaged, or was written by another program.
        DataError: an image is missing or damaged.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from svdistill.config import TrainConfig
        >>> from svdistill.export import export_student
        >>> from svdistill.training import train
        >>> run = tempfile.mkdtemp()
        >>> config = TrainConfig(output=run, network="mobilenet_student", width=0.1, epochs=1)
        >>> _ = train(config)
        >>> file = export_student(run, "torch", images=20).path
        >>> Image.new("RGB", (40, 30)).save(f"{run}/black.png")
        >>> (prediction,) = predict(file, [f"{run}/black.png"], top=3)
        >>> len(prediction.classes), prediction.path.name
        (3, 'black.png')
    """
    require_count("top", top)
    files = [Path(image).expanduser() for image in images]
    if not files or isinstance(images, str):
        raise ArgumentError(
            "images",
            expected="a list of image files",
            got=repr(images),
            remedy="give at least one path",
        )
    path = Path(file)
    known, network = read_export_metadata(path), _load(path)
    logits = []
    for start in range(0, len(files), BATCH_SIZE):
        pixels = decode_files(files[start : start + BATCH_SIZE], known.image_size)
        logits.append(_logits(path, network, known, pixels))
    probabilities, places = torch.cat(logits).softmax(dim=1).topk(min(top, len(known.class_names)))
    names = ([known.class_names[place] for place in row] for row in places.tolist())
    return tuple(
        Prediction(image, tuple(zip(classes, values, strict=True)))
        for image, classes, values in zip(files, names, probabilities.tolist(), strict=True)
    )


def _load(file: Path) -> Callable[[Tensor], Tensor]:
    file_format = format_of(file)
    for package in file_format.packages:
        require_package(package, "export")
    try:
        return file_format.load(file.read_bytes())
    except Exception as error:  # each format's library has errors of its own
        raise _unusable(file, error) from error


@torch.inference_mode()
def _logits(
    file: Path, network: Callable[[Tensor], Tensor], known: ExportMetadata, pixels: Tensor
) -> Tensor:
    """Classify uint8 images [B, 3, S, S], giving logits [B, classes]."""
    if known.input_dtype != "uint8":
        pixels = Augmentation("none", known.image_size, known.mean, known.std).normalise(pixels)
    try:
        logits = network(pixels)
        if logits.shape != (len(pixels), len(known.class_names)):
            raise ValueError(f"logits {list(logits.shape)} for {len(known.class_names)} classes")
    except Exception as error:  # a network that does not fit its metadata
        raise _unusable(file, error) from error
    return logits


def _unusable(file: Path, error: Exception) -> RunError:
    return RunError(
        str(file),
        expected="a file that svdistill export wrote",
        got=in_short(error),
        remedy="check the path, or export the run again",
    )
