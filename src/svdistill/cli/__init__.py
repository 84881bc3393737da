"""The command line, `svdistill COMMAND`."""

from svdistill.cli.main import main
from svdistill.cli.processes import end, show_traceback

__all__ = [
    "end",
    "main",
    "show_traceback",
]
