"""Of several processes the main one speaks; the others wait until it has."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import Final

from svdistill.errors import Stopped, SVDistillError, TrainingError
from svdistill.launching import launched_rank, launched_size
from svdistill.terminal import shown

TOGETHER: Final = ("train", "distill")  # the commands that several processes may run
# Longer than the main process takes to say why nothing could begin. A launcher ends the others as
# soon as one has left.
PATIENCE: Final = 10.0


def is_speaker() -> bool:
    """Whether this process prints."""
    return launched_rank() == 0


def say(line: str, error: BaseException) -> None:
    """Print why a command ends, once, and let nobody leave before that: it would end the speaker.

    Args:
        line: what to print to stderr.
        error: why it ends.
    """
    if launched_size() == 1 or is_speaker():
        print(shown(line), file=sys.stderr, flush=True)
        _meet(error)
    elif _is_everywhere(error):
        if not _meet(error):
            time.sleep(PATIENCE)
    elif isinstance(error, KeyboardInterrupt):
        return  # the main process got the signal too
    else:
        print(shown(f"{line} (process {launched_rank()})"), file=sys.stderr, flush=True)


def leave() -> None:
    """End together, when all is done: a process that exits within the group may abort."""
    if _is_grouped():
        from svdistill.parallel import close_group, meet

        meet()
        close_group()


def end(status: int) -> int:
    """Exit, where several processes were launched; the status of one alone is handed back.

    While an interpreter is torn down, a thread of torch's that asks for its lock is ended by force,
    and now and then that aborts the process, whose launcher then calls the run a failure.
    """
    if launched_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_everywhere(error: BaseException) -> bool:
    """Whether the main process has the same to say.

    Before they have met, all have read the same words and come to the same end. What a loss shows,
    all see.
    """
    if isinstance(error, KeyboardInterrupt):
        return isinstance(error, Stopped) and error.everywhere
    if isinstance(error, SVDistillError) and (error.everywhere or isinstance(error, TrainingError)):
        return True
    return not _is_grouped()


def _meet(error: BaseException) -> bool:
    """Wait for the others where all come here, and leave the group with them; whether they did."""
    if not _is_grouped() or not _is_everywhere(error):
        return False
    try:
        leave()
    except SVDistillError:  # somebody has left already
        return False
    return True


def _is_grouped() -> bool:
    """Whether the processes have met; if so, torch is imported already."""
    if "svdistill.parallel" not in sys.modules:
        return False
    from svdistill.parallel import is_grouped

    return is_grouped()
