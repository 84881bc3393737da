"""Write a trained student to one file for other programs: ONNX, or PyTorch's .pt2 format.

`export_student` in `student.py` is the entry point: it traces the network, converts it to the
chosen format and, if requested, quantises it (`formats.py`), adds the metadata (`exported.py`), and
writes the file only if it agrees with the network (`checks.py`). `predict` in `exported.py`
classifies image files with such a file.
"""

from svdistill.export.checks import (
    ExportReport as ExportReport,
    ShippedFile as ShippedFile,
    export_notes as export_notes,
    export_table as export_table,
    read_shipped_files as read_shipped_files,
)
from svdistill.export.exported import (
    ExportMetadata as ExportMetadata,
    Prediction as Prediction,
    predict as predict,
    read_export_metadata as read_export_metadata,
)
from svdistill.export.student import (
    ExportOptions as ExportOptions,
    export_student as export_student,
)
