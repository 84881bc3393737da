"""Write a trained student to one file for other programs: ONNX, or PyTorch's .pt2 format.

`export_student` in `student.py` is the way in: it traces the network (`tracing.py`), writes it in a
format (`formats.py`) with its metadata (`metadata.py`), quantises it if asked to
(`quantization.py`), and compares the file with the network (`checks.py`) before it is kept.
`predict` in `prediction.py` runs such a file on image files.
"""

from svdistill.export.checks import BatchLatency, Parity
from svdistill.export.metadata import ExportMetadata, read_export_metadata
from svdistill.export.prediction import Prediction, predict
from svdistill.export.report import (
    ExportReport,
    ReportColumn,
    ShippedFile,
    export_notes,
    export_table,
    read_shipped_files,
)
from svdistill.export.student import ExportOptions, export_student

__all__ = [
    "BatchLatency",
    "ExportMetadata",
    "ExportOptions",
    "ExportReport",
    "Parity",
    "Prediction",
    "ReportColumn",
    "ShippedFile",
    "export_notes",
    "export_student",
    "export_table",
    "predict",
    "read_export_metadata",
    "read_shipped_files",
]
