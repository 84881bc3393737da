"""A run directory: its configuration, records, checkpoints, weights and summary."""

from svdistill.runs.checkpoint import Checkpoint as Checkpoint, TrainingPosition as TrainingPosition
from svdistill.runs.directory import (
    MAY_DIFFER as MAY_DIFFER,
    RunDirectory as RunDirectory,
    differing as differing,
    read_config as read_config,
    stored_values as stored_values,
)
from svdistill.runs.records import (
    EpochRecord as EpochRecord,
    RunSummary as RunSummary,
    environment as environment,
    read_environment as read_environment,
    read_records as read_records,
    read_summary as read_summary,
    skipped_steps as skipped_steps,
)
from svdistill.runs.weights import (
    WeightsCard as WeightsCard,
    build_as_on_card as build_as_on_card,
    is_own_code as is_own_code,
    load_student as load_student,
    load_weights as load_weights,
    network_digest as network_digest,
    read_card as read_card,
    read_tensors as read_tensors,
    save_weights as save_weights,
    weights_file as weights_file,
)
