"""What every command can be told: typed dataclasses, the same for YAML, flags and Python."""

from svdistill.config.bench import BenchConfig, require_read
from svdistill.config.cache import CacheConfig
from svdistill.config.training import OBJECT, PRETRAINED, DistillConfig, TrainConfig

__all__ = [
    "OBJECT",
    "PRETRAINED",
    "BenchConfig",
    "CacheConfig",
    "DistillConfig",
    "TrainConfig",
    "require_read",
]
