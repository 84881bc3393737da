"""`svdistill`, and `python -m svdistill`."""

import sys

from svdistill.cli import end, main, show_traceback


def run() -> int:
    """Run the command named on the command line, then exit; see `svdistill.cli.processes.end`."""
    sys.excepthook = show_traceback
    return end(main())


if __name__ == "__main__":
    sys.exit(run())
