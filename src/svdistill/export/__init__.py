"""A trained student as one file for other programs: ONNX, or PyTorch's own format."""

from svdistill.export.exporting import ExportReport, export_student
from svdistill.export.latency import BatchLatency
from svdistill.export.metadata import ExportMetadata, read_export_metadata
from svdistill.export.parity import Parity

__all__ = [
    "BatchLatency",
    "ExportMetadata",
    "ExportReport",
    "Parity",
    "export_student",
    "read_export_metadata",
]
