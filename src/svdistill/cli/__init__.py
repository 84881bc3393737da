"""The command line."""

from svdistill.cli.main import main

__all__ = ["main"]
