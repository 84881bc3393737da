"""Lists of runs that answer a question, and what came out."""

from svdistill.experiments.demo import demo

__all__ = ["demo"]
