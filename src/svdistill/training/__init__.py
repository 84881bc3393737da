"""One readable training loop on Accelerate, and the commands built on it."""

from svdistill.training.cache import cache_knowledge
from svdistill.training.cache_config import CacheConfig
from svdistill.training.config import DistillConfig, TrainConfig
from svdistill.training.evaluation import evaluate
from svdistill.training.memory import keep_freed_memory
from svdistill.training.metrics import Evaluation
from svdistill.training.run import distill, train
from svdistill.training.run_directory import RunSummary
from svdistill.training.weights import load_student

__all__ = [
    "CacheConfig",
    "DistillConfig",
    "Evaluation",
    "RunSummary",
    "TrainConfig",
    "cache_knowledge",
    "distill",
    "evaluate",
    "keep_freed_memory",
    "load_student",
    "train",
]
