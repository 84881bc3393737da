"""Reproduce the paper's tables and figures, compare losses over several seeds, and run the demo."""

from svdistill.paper.baselines import compare_seeds
from svdistill.paper.digits_demo import demo
from svdistill.paper.plan import EXPERIMENTS
from svdistill.paper.reproduce import ReproduceConfig, reproduce

__all__ = [
    "EXPERIMENTS",
    "ReproduceConfig",
    "compare_seeds",
    "demo",
    "reproduce",
]
