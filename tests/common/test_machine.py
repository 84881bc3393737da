import os
import subprocess
import sys

import pytest

from svdistill.common.machine import available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound here")
def test_a_process_bound_to_one_core_counts_one():
    code = "from svdistill.common.machine import available_cores; print(available_cores())"
    bind = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); "
    answer = subprocess.run(
        [sys.executable, "-c", bind + code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "1"


def test_no_more_than_the_machine_has():
    assert 1 <= available_cores() <= os.cpu_count()
