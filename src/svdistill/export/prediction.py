"""`svdistill predict`: classify image files with an exported network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from svdistill.common import ArgumentError, RunError, require_count, require_package
from svdistill.data import Augmentation, decode_files
from svdistill.export.checks import BATCH_SIZE
from svdistill.export.formats import format_of
from svdistill.export.metadata import ExportMetadata, read_export_metadata
from svdistill.export.tracing import in_short


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
        path: of the image.
        classes: class names and probabilities, the most probable first.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]


def predict(
    file: str | Path, images: Sequence[str | Path], *, top: int = 1
) -> tuple[Prediction, ...]:
    """Classify image files with an exported network, on the CPU.

    Images are prepared as the metadata of the file says: the middle square is cut out, resized
    and, unless the network does so itself, normalised. The probabilities are the softmax of the
    logits.

    Args:
        file: an .onnx or .pt2 file that `export_student` wrote.
        images: paths of image files of any size, in a format that Pillow reads.
        top: number of classes per image; at most all of them are returned.

    Returns:
        One prediction per image, in the order of `images`.

    Raises:
        ArgumentError: no images, a bad value, or the package that runs the file is missing.
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
    paths = [Path(image).expanduser() for image in images]
    if not paths or isinstance(images, str):
        raise ArgumentError(
            "images",
            expected="a list of image files",
            got=repr(images),
            remedy="give at least one path",
        )
    known = read_export_metadata(file)
    network = _load(Path(file))
    logits = []
    for start in range(0, len(paths), BATCH_SIZE):
        pixels = decode_files(paths[start : start + BATCH_SIZE], known.image_size)
        logits.append(_logits(file, network, known, pixels))
    probabilities, places = torch.cat(logits).softmax(dim=1).topk(min(top, len(known.class_names)))
    names = ([known.class_names[place] for place in row] for row in places.tolist())
    return tuple(
        Prediction(path, tuple(zip(classes, values, strict=True)))
        for path, classes, values in zip(paths, names, probabilities.tolist(), strict=True)
    )


def _load(file: Path) -> Callable[[Tensor], Tensor]:
    file_format = format_of(file)
    for package in file_format.packages:
        require_package(package, "export")
    try:
        return file_format.load(file.read_bytes())
    except Exception as error:  # each format's library has its own
        raise _unusable(file, error) from error


@torch.inference_mode()
def _logits(
    file: str | Path, network: Callable[[Tensor], Tensor], known: ExportMetadata, pixels: Tensor
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


def _unusable(file: str | Path, error: Exception) -> RunError:
    return RunError(
        str(file),
        expected="a network that svdistill export wrote",
        got=in_short(error),
        remedy="export the run again",
    )
