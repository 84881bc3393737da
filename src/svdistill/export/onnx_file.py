"""The ONNX format: from a traced network to a file's content, and back to something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svdistill.errors import RunError, require_package
from svdistill.export.trace import in_short, quiet

PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")


def to_onnx(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The content of an .onnx file: input `images`, output `logits`, both `[batch, ...]`.

    Raises:
        RunError: ONNX cannot hold the network.
    """
    try:
        with quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "batch"}},
                verbose=False,
            )
        assert converted is not None
        for node in converted.model.graph.all_nodes():
            node.metadata_props.clear()  # source code and its paths
        converted.model.metadata_props.update(metadata)
        return converted.model_proto.SerializeToString()
    except Exception as error:  # the converter has many errors of its own
        raise RunError(
            "format",
            expected="a network that ONNX has operations for, of less than 2 GB",
            got=in_short(error),
            remedy="use --format torch",
        ) from error


def load_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    """Open it with ONNX Runtime on the CPU, with as many threads as torch uses."""
    runtime = require_package("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would otherwise keep the cores busy for a while, and slow down what runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """The texts that a file carries."""
    model = require_package("onnx", "export").load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}
