"""What every room uses: errors, files, locks, typed values, imports, timing, logits, machine."""

from svdistill.common.errors import (
    ArgumentError,
    DataError,
    MachineError,
    RunError,
    Stopped,
    SVDistillError,
    TrainingError,
    TransferWarning,
    nearest,
    require_choice,
    require_count,
    require_positive,
)
from svdistill.common.files import (
    is_temporary,
    make_directory,
    read_json,
    read_text,
    require_no_device,
    sweep,
    write_atomically,
    write_failure,
    write_json,
)
from svdistill.common.imports import import_attribute, require_package
from svdistill.common.locking import LOCK_NAME, locked, require_unlocked
from svdistill.common.logits import as_logits
from svdistill.common.machine import (
    available_cores,
    keep_memory,
    launched_rank,
    launched_size,
)
from svdistill.common.plain_values import (
    MOST,
    Finite,
    from_plain,
    plain_fields,
    read_plain,
    read_yaml,
)
from svdistill.common.terminal import TextConsole, shown
from svdistill.common.timing import Case, Measurement, duration, interleave, synchronise, threads

__all__ = [
    "LOCK_NAME",
    "MOST",
    "ArgumentError",
    "Case",
    "DataError",
    "Finite",
    "MachineError",
    "Measurement",
    "RunError",
    "SVDistillError",
    "Stopped",
    "TextConsole",
    "TrainingError",
    "TransferWarning",
    "as_logits",
    "available_cores",
    "duration",
    "from_plain",
    "import_attribute",
    "interleave",
    "is_temporary",
    "keep_memory",
    "launched_rank",
    "launched_size",
    "locked",
    "make_directory",
    "nearest",
    "plain_fields",
    "read_json",
    "read_plain",
    "read_text",
    "read_yaml",
    "require_choice",
    "require_count",
    "require_no_device",
    "require_package",
    "require_positive",
    "require_unlocked",
    "shown",
    "sweep",
    "synchronise",
    "threads",
    "write_atomically",
    "write_failure",
    "write_json",
]
