"""`svdistill` that sends itself a signal while it makes a step.

python signal_at_a_step.py SIGNAL STEP WORDS...
"""

import signal
import sys

from svdistill.cli import main
from svdistill.cli.processes import end
from svdistill.training.step import DistillStep


def send_in(step_number, number):
    plain, steps = DistillStep.__call__, iter(range(1, 10_000))

    def call(self, *arguments, **options):
        if next(steps) == step_number:
            signal.raise_signal(number)
        return plain(self, *arguments, **options)

    DistillStep.__call__ = call


if __name__ == "__main__":
    name, step, *words = sys.argv[1:]
    send_in(int(step), signal.Signals[name])
    sys.exit(end(main(words)))
