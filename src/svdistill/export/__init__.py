"""Write a trained student to one file for other programs: ONNX, or PyTorch's .pt2 format.

`export_student` in `student.py` is the way in: it traces the network, writes it in a format and
quantises it if asked to (`formats.py`), with its metadata (`exported.py`), and compares the file
with the network (`checks.py`) before it is kept. `predict` in `exported.py` runs such a file on
image files.
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
