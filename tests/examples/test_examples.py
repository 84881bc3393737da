"""Every example runs, and does what it says."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_loop_teaches(capsys):
    runpy.run_path(str(EXAMPLES / "own_loop.py"), run_name="__main__")
    printed = capsys.readouterr().out
    transfer = [float(number) for number in re.findall(r"transfer (\S+)", printed)]
    assert len(transfer) == 3
    assert transfer[-1] < transfer[0]
    assert float(re.search(r"test accuracy (\S+) %", printed)[1]) > 50


def test_no_example_goes_untested():
    tested = Path(__file__).read_text()
    assert all(path.name in tested for path in EXAMPLES.glob("*.py"))
