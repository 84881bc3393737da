"""A run directory: its configuration, records, checkpoints, weights and summary."""

from svdistill.runs.checkpoint import Checkpoint, TrainingPosition
from svdistill.runs.directory import RunDirectory
from svdistill.runs.records import (
    EpochRecord,
    RunSummary,
    environment,
    read_environment,
    read_records,
    read_summary,
    skipped_steps,
)
from svdistill.runs.stored_config import MAY_DIFFER, read_config, stored_values
from svdistill.runs.weights import (
    WeightsCard,
    build_as_on_card,
    is_own_code,
    load_student,
    load_weights,
    network_digest,
    read_card,
    read_tensors,
    save_weights,
    weights_file,
)

__all__ = [
    "MAY_DIFFER",
    "Checkpoint",
    "EpochRecord",
    "RunDirectory",
    "RunSummary",
    "TrainingPosition",
    "WeightsCard",
    "build_as_on_card",
    "environment",
    "is_own_code",
    "load_student",
    "load_weights",
    "network_digest",
    "read_card",
    "read_config",
    "read_environment",
    "read_records",
    "read_summary",
    "read_tensors",
    "save_weights",
    "skipped_steps",
    "stored_values",
    "weights_file",
]
