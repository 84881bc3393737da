"""Transfer losses, one method per file. A loss never sees a teacher: it sees its knowledge."""

from svdistill.losses.attention_transfer import AttentionKnowledge, AttentionTransferLoss
from svdistill.losses.dfv import dfv, dfv_distance
from svdistill.losses.dist import DISTLoss
from svdistill.losses.dkd import DKDLoss
from svdistill.losses.finite import not_finite, source
from svdistill.losses.fsp import FSPKnowledge, FSPLoss
from svdistill.losses.position_gram import (
    CosineAffinityLoss,
    PositionGramKnowledge,
    PositionGramLoss,
)
from svdistill.losses.position_svd import PositionSVDKnowledge, PositionSVDLoss
from svdistill.losses.registry import (
    DEFAULT_LOSS,
    OPTIONS,
    LossOptions,
    added_to_task,
    build_loss,
    is_compact,
    is_imported,
    loss_names,
    loss_specs,
    losses_text,
    losses_without_logits,
    object_name,
    option_defaults,
    reads,
    reads_logits,
    register,
    registered_specs,
    require_read,
    require_whole_batches,
    titles,
    unread_options,
    usual_weights,
)
from svdistill.losses.similarity_preserving import SimilarityKnowledge, SimilarityPreservingLoss
from svdistill.losses.soft_target import (
    LogitStandardizationLoss,
    SoftTargetKnowledge,
    SoftTargetLoss,
)
from svdistill.losses.spec import LossSpec
from svdistill.losses.sum import SumKnowledge, SumLoss
from svdistill.losses.svd import SVDKnowledge, SVDLoss, align
from svdistill.losses.torchdistill_adapter import TorchdistillKnowledge, TorchdistillLoss
from svdistill.losses.transfer import Knowledge, TransferLoss, as_matrices

__all__ = [
    "DEFAULT_LOSS",
    "OPTIONS",
    "AttentionKnowledge",
    "AttentionTransferLoss",
    "CosineAffinityLoss",
    "DISTLoss",
    "DKDLoss",
    "FSPKnowledge",
    "FSPLoss",
    "Knowledge",
    "LogitStandardizationLoss",
    "LossOptions",
    "LossSpec",
    "PositionGramKnowledge",
    "PositionGramLoss",
    "PositionSVDKnowledge",
    "PositionSVDLoss",
    "SVDKnowledge",
    "SVDLoss",
    "SimilarityKnowledge",
    "SimilarityPreservingLoss",
    "SoftTargetKnowledge",
    "SoftTargetLoss",
    "SumKnowledge",
    "SumLoss",
    "TorchdistillKnowledge",
    "TorchdistillLoss",
    "TransferLoss",
    "added_to_task",
    "align",
    "as_matrices",
    "build_loss",
    "dfv",
    "dfv_distance",
    "is_compact",
    "is_imported",
    "loss_names",
    "loss_specs",
    "losses_text",
    "losses_without_logits",
    "not_finite",
    "object_name",
    "option_defaults",
    "reads",
    "reads_logits",
    "register",
    "registered_specs",
    "require_read",
    "require_whole_batches",
    "source",
    "titles",
    "unread_options",
    "usual_weights",
]
