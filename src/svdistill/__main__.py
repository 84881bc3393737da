"""`svdistill`, and `python -m svdistill`."""

import sys

from svdistill.cli import end, main, show_traceback


def run() -> int:
    """Run the command of this process's words, and end the process where it is one of several."""
    sys.excepthook = show_traceback
    return end(main())


if __name__ == "__main__":
    sys.exit(run())
