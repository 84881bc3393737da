"""One readable training loop on Accelerate, and the commands built on it."""

from svdistill.training.config import DistillConfig, TrainConfig
from svdistill.training.metrics import Evaluation
from svdistill.training.run import distill, evaluate, train
from svdistill.training.run_directory import RunSummary
from svdistill.training.weights import load_student

__all__ = [
    "DistillConfig",
    "Evaluation",
    "RunSummary",
    "TrainConfig",
    "distill",
    "evaluate",
    "load_student",
    "train",
]
