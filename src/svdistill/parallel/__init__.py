"""Several processes that train one network: each takes its part of every batch."""

from svdistill.parallel.batch_norm import batch_norm_over
from svdistill.parallel.group import (
    TIMEOUT,
    broadcast,
    close_group,
    gather,
    gather_values,
    in_main,
    is_grouped,
    is_main,
    is_sharded,
    meet,
    own_share,
    rank,
    require_alike,
    require_alone,
    require_launched,
    size,
    sum_over,
    together,
)
from svdistill.parallel.parts import ALONE, BatchPart, Share

__all__ = [
    "ALONE",
    "TIMEOUT",
    "BatchPart",
    "Share",
    "batch_norm_over",
    "broadcast",
    "close_group",
    "gather",
    "gather_values",
    "in_main",
    "is_grouped",
    "is_main",
    "is_sharded",
    "meet",
    "own_share",
    "rank",
    "require_alike",
    "require_alone",
    "require_launched",
    "size",
    "sum_over",
    "together",
]
