"""Static int8 quantisation of an exported ONNX file, calibrated on training images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from svdistill.common import RunError, require_package
from svdistill.export.checks import BATCH_SIZE
from svdistill.export.tracing import in_short, quiet

CALIBRATION_IMAGES: Final = 256


def quantize_onnx(content: bytes, metadata: Mapping[str, str], images: Tensor) -> bytes:
    """Quantise weights to int8 and activations to uint8 with ONNX Runtime.

    The range of each activation is its minimum and maximum over the calibration images. Weights
    have one scale for each output channel and use 7 bits, since the sums of 8-bit products
    saturate on x86 processors without VNNI instructions.

    Args:
        content: of a float32 .onnx file.
        metadata: of the quantised file.
        images: calibration images, as the file takes them.

    Returns:
        The content of the quantised .onnx file.

    Raises:
        RunError: ONNX Runtime cannot quantise the network.
    """
    onnx = require_package("onnx", "export")
    quantization = require_package("onnxruntime.quantization", "export")
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            file = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                onnx.load_from_string(content),
                file,
                _Calibration(images),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            model = onnx.load(str(file))
    except Exception as error:  # the quantiser has many errors of its own
        raise RunError(
            "quantize",
            expected="a network that ONNX Runtime can quantise",
            got=in_short(error),
            remedy="leave --quantize out",
        ) from error
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


class _Calibration:
    """Batches of images as ONNX Runtime's `CalibrationDataReader` gives them."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(BATCH_SIZE))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}
