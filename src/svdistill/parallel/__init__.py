"""Training of one network in several processes, each of which takes a part of every batch."""

from svdistill.parallel.batch_norm import batch_norm_over as batch_norm_over
from svdistill.parallel.group import (
    ALONE as ALONE,
    TIMEOUT as TIMEOUT,
    BatchPart as BatchPart,
    Share as Share,
    broadcast as broadcast,
    close_group as close_group,
    gather as gather,
    gather_values as gather_values,
    in_main as in_main,
    is_grouped as is_grouped,
    is_main as is_main,
    is_sharded as is_sharded,
    meet as meet,
    own_share as own_share,
    rank as rank,
    require_alike as require_alike,
    require_alone as require_alone,
    require_launched as require_launched,
    size as size,
    sum_over as sum_over,
    together as together,
)
