"""The options of every command: typed dataclasses, the same for YAML, flags and Python."""

from svdistill.config.bench import BenchConfig, require_read
from svdistill.config.cache import CacheConfig
from svdistill.config.data import OBJECT, DataConfig
from svdistill.config.teacher import TeacherConfig
from svdistill.config.training import PRETRAINED, SAID_BY_STORE, DistillConfig, TrainConfig

__all__ = [
    "OBJECT",
    "PRETRAINED",
    "SAID_BY_STORE",
    "BenchConfig",
    "CacheConfig",
    "DataConfig",
    "DistillConfig",
    "TeacherConfig",
    "TrainConfig",
    "require_read",
]
