"""Lists of runs that answer a question, and what came out."""

from svdistill.experiments.digits_demo import demo

__all__ = ["demo"]
