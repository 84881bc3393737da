"""Transfer losses, one method per file. A loss never sees a teacher: it sees its knowledge.

`registry.py` has an entry for each: its name, its options and their defaults, its title.
"""

from svdistill.losses.dfv import dfv, dfv_distance
from svdistill.losses.fsp import FSPKnowledge, FSPLoss
from svdistill.losses.position_svd import PositionSVDKnowledge, PositionSVDLoss
from svdistill.losses.registry import LossSpec, loss_names, loss_specs, register
from svdistill.losses.soft_target import SoftTargetKnowledge, SoftTargetLoss
from svdistill.losses.sum import SumKnowledge, SumLoss
from svdistill.losses.svd import SVDKnowledge, SVDLoss
from svdistill.losses.transfer import Knowledge, TransferLoss

__all__ = [
    "FSPKnowledge",
    "FSPLoss",
    "Knowledge",
    "LossSpec",
    "PositionSVDKnowledge",
    "PositionSVDLoss",
    "SVDKnowledge",
    "SVDLoss",
    "SoftTargetKnowledge",
    "SoftTargetLoss",
    "SumKnowledge",
    "SumLoss",
    "TransferLoss",
    "dfv",
    "dfv_distance",
    "loss_names",
    "loss_specs",
    "register",
]
