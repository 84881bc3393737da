"""Lists of runs that answer a question, and what came out."""

from svdistill.experiments.digits_demo import demo
from svdistill.experiments.reproduce import ReproduceConfig, reproduce

__all__ = ["ReproduceConfig", "demo", "reproduce"]
