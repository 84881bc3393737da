"""Runs a function in several processes that have met, and brings back what each found."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ENDS_WITHIN = 120  # seconds, on a machine that is busy
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # networks of these tests


def in_processes(count, work, folder, *arguments):
    """What `work(*arguments)` returned in each of so many processes; tensors and plain values."""
    mp.spawn(_work, args=(count, work, str(folder), arguments), nprocs=count)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _work(rank, count, work, folder, arguments):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    torch.save(work(*arguments), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def start_ranks(*each):
    """Start `svdistill` with each of these words as launchers do, but none ends the others."""
    return start_programs(*(["-m", "svdistill", *words] for words in each))


def start_programs(*each):
    """Likewise Python, with each of these words."""
    port, count = free_port(), str(len(each))
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env={**ENVIRONMENT, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(each)
    ]


def free_port():
    """One that nobody listens to, as text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def ended(process):
    """The status, stdout and stderr of a process that is to end by itself."""
    try:
        out, err = process.communicate(timeout=ENDS_WITHIN)
    finally:
        process.kill()
    return process.returncode, out, err
