"""Knowledge distillation by singular value decomposition, in PyTorch."""

from svdistill.data import ImageData, load_images
from svdistill.distiller import Distiller, DistillerOutput
from svdistill.errors import (
    ArgumentError,
    DataError,
    RunError,
    SVDistillError,
    TrainingError,
    TransferWarning,
)
from svdistill.experiments import demo
from svdistill.knowledge_store import KnowledgeStore
from svdistill.linalg import TruncatedSVD, truncated_svd
from svdistill.losses import (
    FSPLoss,
    Knowledge,
    SoftTargetLoss,
    SumLoss,
    SVDLoss,
    TransferLoss,
    dfv,
    dfv_distance,
)
from svdistill.multitask import GradientNorms, multitask_backward
from svdistill.networks import build_network
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training import (
    CacheConfig,
    DistillConfig,
    RunSummary,
    TrainConfig,
    cache_knowledge,
    distill,
    evaluate,
    load_student,
    train,
)

__all__ = [
    "ArgumentError",
    "CacheConfig",
    "DataError",
    "DistillConfig",
    "Distiller",
    "DistillerOutput",
    "FSPLoss",
    "FeatureTaps",
    "GradientNorms",
    "ImageData",
    "Knowledge",
    "KnowledgeStore",
    "RunError",
    "RunSummary",
    "SVDLoss",
    "SVDistillError",
    "SoftTargetLoss",
    "SumLoss",
    "TapPairs",
    "TrainConfig",
    "TrainingError",
    "TransferLoss",
    "TransferWarning",
    "TruncatedSVD",
    "build_network",
    "cache_knowledge",
    "demo",
    "dfv",
    "dfv_distance",
    "distill",
    "evaluate",
    "load_images",
    "load_student",
    "multitask_backward",
    "train",
    "truncated_svd",
]
