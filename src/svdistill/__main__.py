"""`svdistill`, and `python -m svdistill`."""

import sys

from svdistill.cli import main
from svdistill.cli.processes import end


def run() -> int:
    """Run the command of this process's words, and end the process where it is one of several."""
    return end(main())


if __name__ == "__main__":
    sys.exit(run())
