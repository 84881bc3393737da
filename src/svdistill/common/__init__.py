"""Shared helpers: errors, files, locks, typed values, imports, tables, timing, the machine."""

from svdistill.common.errors import (
    ArgumentError as ArgumentError,
    DataError as DataError,
    DataWarning as DataWarning,
    MachineError as MachineError,
    RunError as RunError,
    Stopped as Stopped,
    SVDistillError as SVDistillError,
    TrainingError as TrainingError,
    TransferWarning as TransferWarning,
    in_short as in_short,
    nearest as nearest,
    require_choice as require_choice,
    require_count as require_count,
    require_positive as require_positive,
    warn_of_data as warn_of_data,
)
from svdistill.common.files import (
    locked as locked,
    make_directory as make_directory,
    read_json as read_json,
    read_text as read_text,
    reading as reading,
    require_empty as require_empty,
    require_no_device as require_no_device,
    require_unlocked as require_unlocked,
    sweep as sweep,
    write_atomically as write_atomically,
    write_failure as write_failure,
    write_json as write_json,
    write_text as write_text,
)
from svdistill.common.imports import (
    import_attribute as import_attribute,
    require_package as require_package,
)
from svdistill.common.logits import as_logits as as_logits, described as described
from svdistill.common.machine import (
    available_cores as available_cores,
    keep_memory as keep_memory,
    launched_rank as launched_rank,
    launched_size as launched_size,
)
from svdistill.common.plain_values import (
    MOST as MOST,
    Finite as Finite,
    from_plain as from_plain,
    plain_fields as plain_fields,
    read_plain as read_plain,
    read_yaml as read_yaml,
)
from svdistill.common.table import (
    SHOWN as SHOWN,
    Cell as Cell,
    Column as Column,
    Table as Table,
    TextConsole as TextConsole,
    columns as columns,
    counted as counted,
    few_classes as few_classes,
    first_synonym as first_synonym,
    listed as listed,
    mean_cell as mean_cell,
    mean_std as mean_std,
    millions as millions,
    millions_cell as millions_cell,
    number_cell as number_cell,
    shown as shown,
    text_table as text_table,
)
from svdistill.common.timing import (
    Case as Case,
    Measurement as Measurement,
    duration as duration,
    interleave as interleave,
    synchronise as synchronise,
    threads as threads,
)
