"""Transfer losses, one method per file. A loss never sees a teacher: it sees its knowledge."""

from svdistill.losses.attention_transfer import (
    AttentionKnowledge as AttentionKnowledge,
    AttentionTransferLoss as AttentionTransferLoss,
)
from svdistill.losses.dfv import dfv as dfv, dfv_distance as dfv_distance
from svdistill.losses.dist import DISTLoss as DISTLoss
from svdistill.losses.dkd import DKDLoss as DKDLoss
from svdistill.losses.finite import not_finite as not_finite, source as source
from svdistill.losses.fsp import FSPKnowledge as FSPKnowledge, FSPLoss as FSPLoss
from svdistill.losses.position_gram import (
    CosineAffinityLoss as CosineAffinityLoss,
    PositionGramKnowledge as PositionGramKnowledge,
    PositionGramLoss as PositionGramLoss,
)
from svdistill.losses.position_svd import (
    PositionSVDKnowledge as PositionSVDKnowledge,
    PositionSVDLoss as PositionSVDLoss,
)
from svdistill.losses.registry import (
    DEFAULT_LOSS as DEFAULT_LOSS,
    OPTION_NAMES as OPTION_NAMES,
    OPTIONS as OPTIONS,
    build_loss as build_loss,
    default_loss as default_loss,
    is_compact as is_compact,
    loss_names as loss_names,
    loss_specs as loss_specs,
    losses_text as losses_text,
    losses_without_logits as losses_without_logits,
    object_name as object_name,
    option_defaults as option_defaults,
    reads as reads,
    reads_logits as reads_logits,
    register as register,
    registered_specs as registered_specs,
    require_read as require_read,
    require_whole_batches as require_whole_batches,
    titles as titles,
    unread_options as unread_options,
    usual_weights as usual_weights,
)
from svdistill.losses.similarity_preserving import (
    SimilarityPreservingLoss as SimilarityPreservingLoss,
)
from svdistill.losses.soft_target import (
    LogitStandardizationLoss as LogitStandardizationLoss,
    SoftTargetKnowledge as SoftTargetKnowledge,
    SoftTargetLoss as SoftTargetLoss,
)
from svdistill.losses.spec import (
    LossSpec as LossSpec,
    added_to_task as added_to_task,
    usual_clip as usual_clip,
)
from svdistill.losses.sum import SumKnowledge as SumKnowledge, SumLoss as SumLoss
from svdistill.losses.svd import SVDKnowledge as SVDKnowledge, SVDLoss as SVDLoss
from svdistill.losses.torchdistill_adapter import TorchdistillLoss as TorchdistillLoss
from svdistill.losses.transfer import (
    Knowledge as Knowledge,
    TransferLoss as TransferLoss,
    as_matrices as as_matrices,
)
