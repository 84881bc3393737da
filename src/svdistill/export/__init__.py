"""A trained student as one file for other programs: ONNX, or PyTorch's own format."""

from svdistill.export.checks import BatchLatency, Parity
from svdistill.export.metadata import ExportMetadata, read_export_metadata
from svdistill.export.student import ExportReport, export_notes, export_student, export_table

__all__ = [
    "BatchLatency",
    "ExportMetadata",
    "ExportReport",
    "Parity",
    "export_notes",
    "export_student",
    "export_table",
    "read_export_metadata",
]
