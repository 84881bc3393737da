"""The options of every command: typed dataclasses, the same for YAML, flags and Python."""

from svdistill.config.bench import BenchConfig as BenchConfig, require_read as require_read
from svdistill.config.data import OBJECT as OBJECT, DataConfig as DataConfig
from svdistill.config.teacher import CacheConfig as CacheConfig, TeacherConfig as TeacherConfig
from svdistill.config.training import (
    PRETRAINED as PRETRAINED,
    SAID_BY_STORE as SAID_BY_STORE,
    DistillConfig as DistillConfig,
    TrainConfig as TrainConfig,
)
