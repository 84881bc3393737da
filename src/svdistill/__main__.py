"""`python -m svdistill`."""

import sys

from svdistill.cli import main

sys.exit(main())
