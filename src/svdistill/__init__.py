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
    DistillConfig,
    RunSummary,
    TrainConfig,
    distill,
    evaluate,
    load_student,
    train,
)
