"""Checksums of small training runs, to show that a change of the source changes no number.

    python benchmarks/reliability/golden.py make FILE       # before the change
    python benchmarks/reliability/golden.py compare FILE    # after it; status 1 on a difference

Each run is a command of `svdistill train`, `cache` or `distill` on 64 images of digits, on one
thread of a CPU. FILE keeps the SHA-256 of its weights and of its metrics without times. Bits depend
on the processor and on the version of PyTorch: FILE names both, and `compare` warns where they
differ. `make` skips the runs that FILE has. `--only PATTERN` selects runs by name ("*clip=norm*").
`--fresh` starts each run in a new interpreter, instead of in a fork of one that has imported
PyTorch. The script imports nothing of svdistill: only the command line and the files of a run
directory must stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import importlib
import itertools
import json
import math
import os
import platform
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch is imported

import torch
from safetensors import safe_open

# The numbers of metrics.jsonl that depend on no clock. One that is absent counts as null.
NUMBERS: Final = (
    *("stage", "epoch", "learning_rate", "task_loss", "transfer_loss", "train_accuracy"),
    *("dev_accuracy", "test_accuracy", "test_loss", "task_norm", "transfer_norm", "clipped_norm"),
    *("svd_missed", "svd_close", "skipped_steps"),
)
SUMMARY: Final = ("last_accuracy", "best_accuracy", "best_epoch", "teacher_accuracy")
TRANSFERS: Final = ("svd", "fsp", "position_svd")
LOSSES: Final = (*TRANSFERS, "soft_target", *(f"{name}+soft_target" for name in TRANSFERS))
CLIPS: Final = ("none", "norm", "poster", "global", "amortised")

IMAGES: Final = {"data": "digits", "train_size": 64, "device": "cpu"}
# Every option whose default may change is given.
TRAINING: Final = {
    **IMAGES,
    "epochs": 2,
    "batch_size": 16,
    "capture": "off",
    "seed": 3,
    "augmentation": "paper",
    "schedule": "paper",
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "max_grad_norm": "null",
}
WEIGHTS: Final = {"task_weight": 1.0, "transfer_weight": 1.0}
# A teacher that knows something, and students whose steps are small enough for every loss.
TEACHER: Final = {**TRAINING, "network": "vgg_teacher", "width": 0.125}
TAUGHT: Final = {"train_size": 600, "epochs": 8, "learning_rate": 0.02}
STUDENT: Final = {**TRAINING, "network": "vgg_student", "width": 0.125, "learning_rate": 0.001}
TAUGHT_STUDENT: Final = {**STUDENT, **WEIGHTS, "clip": "amortised"}
VIEWS: Final = {"views": 2, "views_seed": 5}


@dataclass(frozen=True)
class Run:
    """One command, the runs that it reads, and whether it is stopped and resumed."""

    command: str
    options: Mapping[str, object]
    needs: Mapping[str, str] = field(default_factory=dict)  # option -> name of a run
    stopped: bool = False


def distilled(teacher: str = "teacher", /, **options: object) -> Run:
    """A student's run with a teacher; the options are beside, or instead of, the usual ones."""
    return Run("distill", student_options(**options), {"teacher": teacher})


def student_options(**options: object) -> dict[str, object]:
    """The usual options of a student, and these; soft targets beside another loss weigh 1 too."""
    added = {"soft_target_weight": 1.0} if "+soft_target" in str(options["loss"]) else {}
    return {**TAUGHT_STUDENT, **added, **options}


def every_run() -> dict[str, Run]:
    """All runs by their names; those that others read from come first."""
    runs = {"teacher": Run("train", {**TEACHER, **TAUGHT}), "student alone": Run("train", STUDENT)}
    # Three steps from one measurement of the gradients to the next: several in eight steps.
    several: dict[str, dict[str, object]] = {clip: {"clip": clip} for clip in CLIPS}
    several["amortised"]["clip_interval"] = several["none"]["clip_interval"] = 3
    for loss, clip in itertools.product(LOSSES, CLIPS):
        runs[f"loss={loss} clip={clip}"] = distilled(loss=loss, **several[clip])
    for loss, clip in itertools.product(LOSSES, ("norm", "amortised")):
        name = f"loss={loss} clip={clip} two stages"
        runs[name] = distilled(loss=loss, transfer_epochs=1, **several[clip])
    for gradient, count in itertools.product(("exact", "poster", "authors"), (1, 2, 4)):
        name = f"svd gradient={gradient} vectors={count}"
        runs[name] = distilled(loss="svd", gradient=gradient, num_vectors=count)
    for count in (1, 2, 4):
        runs[f"position_svd vectors={count}"] = distilled(loss="position_svd", num_vectors=count)
    return runs | _stored() | _networks() | _optimisation()


def _stored() -> dict[str, Run]:
    """Knowledge stores, students of them, and students of the live teacher with the same views."""
    runs: dict[str, Run] = {}
    for loss in LOSSES:
        cached = {**IMAGES, **VIEWS, "loss": loss}
        runs[f"store {loss}"] = Run("cache", cached, {"teacher": "teacher"})
        needs = {"knowledge": f"store {loss}"}  # which says the views, too
        runs[f"from store {loss}"] = Run("distill", student_options(loss=loss), needs)
        runs[f"live views {loss}"] = distilled(loss=loss, **VIEWS)
    cached = {**IMAGES, **VIEWS, "loss": "svd", "dtype": "float32"}
    runs["store svd float32"] = Run("cache", cached, {"teacher": "teacher"})
    needs = {"knowledge": "store svd float32"}
    runs["from store svd float32"] = Run("distill", student_options(loss="svd"), needs)
    return runs


def _networks() -> dict[str, Run]:
    """Other networks, and channels that differ from the teacher's."""
    runs: dict[str, Run] = {}
    for loss in LOSSES:
        runs[f"wider student {loss}"] = distilled(loss=loss, width=0.25)
    runs["teacher resnext"] = Run("train", {**TEACHER, "network": "resnext_teacher"})
    for network, teacher in (("mobilenet", "teacher"), ("resnext", "teacher resnext")):
        student = f"{network}_student"
        runs[f"alone {network}"] = Run("train", {**STUDENT, "network": student})
        for loss in ("svd", "position_svd+soft_target"):
            runs[f"{network} {loss}"] = distilled(teacher, loss=loss, network=student)
    return runs


def _optimisation() -> dict[str, Run]:
    """What the optimizer is told, which images it is given, and runs that are stopped."""
    runs: dict[str, Run] = {
        "alone bf16": Run("train", {**STUDENT, "precision": "bf16"}),
        "alone adamw": Run("train", {**STUDENT, "optimizer": "adamw", "learning_rate": 0.002}),
        "alone max_grad_norm": Run("train", {**STUDENT, "max_grad_norm": 1.0}),
        "alone dev_fraction": Run("train", {**STUDENT, "dev_fraction": 0.5}),
        "alone more images": Run("train", {**STUDENT, "train_size": 150}),
    }
    varied: dict[str, dict[str, object]] = {
        "bf16": {"precision": "bf16"},
        "unlabelled": {"unlabelled": "rest", "dev_fraction": 0.9},
        "max_grad_norm": {"max_grad_norm": 1.0},
        "adamw": {"optimizer": "adamw", "learning_rate": 0.002},
        "weights": {"task_weight": 0.5, "transfer_weight": 0.25},
        "heavy": {"transfer_weight": 50.0, "clip_interval": 3},  # so that the clip binds
        "two stages bf16": {"transfer_epochs": 1, "precision": "bf16"},
    }
    for loss, (name, options) in itertools.product(LOSSES, varied.items()):
        if name in ("bf16", "unlabelled") or loss in ("svd", "position_svd+soft_target"):
            runs[f"{name} {loss}"] = distilled(loss=loss, **options)
    for loss, clip in (("svd", "norm"), ("position_svd+soft_target", "amortised")):
        options = {"loss": loss, "clip": clip, "epochs": 6}
        runs[f"whole {loss}"] = distilled(**options)
        whole = runs[f"whole {loss}"]
        runs[f"stopped {loss}"] = Run(whole.command, whole.options, whole.needs, stopped=True)
    return runs


def selected(runs: Mapping[str, Run], only: str | None) -> list[str]:
    """The names that match a pattern, in order; without `*` it may lie anywhere in a name."""
    pattern = only or "*"
    pattern = pattern if "*" in pattern else f"*{pattern}*"
    return [name for name in runs if fnmatch.fnmatchcase(name, pattern)]


def words(run: Run, output: Path, folders: Mapping[str, Path]) -> list[str]:
    """The command line of a run."""
    needed = {option: folders[name] for option, name in run.needs.items()}
    options: dict[str, object] = {**run.options, **needed, "output": output}
    return [run.command, *(f"--{name}={value}" for name, value in options.items())]


def weights_digest(file: Path) -> str:
    """SHA-256 of all tensors in a safetensors file: names, types, shapes and bytes, by name."""
    digest = hashlib.sha256()
    with safe_open(file, framework="pt") as stored:
        for name in sorted(stored.keys()):
            tensor = stored.get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch and the summary of a run, without what depends on a clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    summary = json.loads((folder / "summary.json").read_text())
    chosen = [{name: record.get(name) for name in NUMBERS} for record in records]
    last = {name: summary.get(name) for name in SUMMARY}
    if last["best_epoch"] is not None:
        last["best_epoch"] -= 1  # the digests count from 0
    return [*chosen, last]


def digests(folder: Path) -> dict[str, str]:
    """What is kept of a run, whose numbers must be finite to show anything, or of a store."""
    shards = sorted(folder.glob("*.bin"))
    if shards:  # without the checksums at their ends, which depend on the teacher's path
        rows = (shard.read_bytes()[:-32] for shard in shards)
        return {"store": hashlib.sha256(b"".join(rows)).hexdigest()}
    kept = numbers(folder)
    for value in itertools.chain.from_iterable(record.values() for record in kept):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{folder.name}: a number is {value}")
    metrics = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return {"weights": weights_digest(folder / "student.safetensors"), "metrics": metrics}


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each run whose digests differ."""
    lines = []
    for name, digest in now.items():
        before = kept.get(name, {})
        parts = [part for part in digest if digest[part] != before.get(part)]
        if "failed" in digest:
            lines.append(f"{name}: failed: {digest['failed']}")
        elif parts:
            lines.append(f"{name}: {' and '.join(parts)} differ" if before else f"{name}: not kept")
    return lines


def machine() -> dict[str, object]:
    """What the bits depend on."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


class Runner:
    """Makes runs in a folder, each in a process of its own."""

    def __init__(self, folder: Path, fresh: bool) -> None:
        self.folder, self.said, self.fresh = folder, folder / "said", fresh
        self.made: dict[str, Path] = {}
        self.warm = False

    def make(self, name: str, runs: Mapping[str, Run]) -> Path:
        """The folder of a run, which is made first if it is not there, after those it needs."""
        if name not in self.made:
            run = runs[name]
            for needed in run.needs.values():
                self.make(needed, runs)
            output = self.folder / name.replace(" ", "-")
            line = words(run, output, self.made)
            if run.stopped:  # after its first epoch
                self._end(self._start(line), (143,), output / "metrics.jsonl", signal.SIGTERM)
                line.append("--resume=true")
            # What a run does after its summary, its report, takes longer than its training.
            summary = None if self.fresh else output / "summary.json"
            self._end(self._start(line), (0, -signal.SIGKILL), summary, signal.SIGKILL)
            self.made[name] = output
        return self.made[name]

    def _start(self, line: Sequence[str]) -> int:
        """Start `svdistill` with these words; its process."""
        if self.fresh:
            command = [sys.executable, "-m", "svdistill", *line]
            return self._fork(lambda: os.execv(sys.executable, command))
        if not self.warm:
            self.warm = True
            self._import_what_a_run_imports()
        return self._fork(lambda: self._svdistill(line))

    def _import_what_a_run_imports(self) -> None:
        """Learn from two runs which modules they import, and import these before all forks."""
        listed, teacher = self.folder / "modules", self.folder / "first-teacher"
        student = Run("distill", {**STUDENT, "teacher": teacher})

        def two_runs() -> int:
            self._svdistill(words(Run("train", TEACHER), teacher, {}))
            status = self._svdistill(words(student, self.folder / "first-student", {}))
            listed.write_text("\n".join(sorted(sys.modules)))
            return status

        self._end(self._fork(two_runs), (0,))
        for name in listed.read_text().splitlines():
            if name != "__main__":
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)

    @staticmethod
    def _svdistill(line: Sequence[str]) -> int:
        """`python -m svdistill`, in this process."""
        sys.argv = ["svdistill", *line]
        try:
            runpy.run_module("svdistill", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return 0

    def _fork(self, work: Callable[[], int]) -> int:
        """Do work in a fork of this process; its process."""
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        status = 1
        try:
            said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _end(
        self, process: int, codes: Sequence[int], mark: Path | None = None, sent: int = 0
    ) -> None:
        """Wait for the end of a process, to which a signal is sent once a file has content."""
        ended = status = 0
        while not ended:
            ended, status = os.waitpid(process, os.WNOHANG if mark else 0)
            if not ended and mark and mark.exists() and mark.stat().st_size:
                os.kill(process, sent)
                mark = None
            elif not ended:
                time.sleep(0.005)
        code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            said = self.said.read_text()[-2000:]
            raise RuntimeError(f"{said}\nsvdistill ended with {code}, not one of {codes}")


def made(names: Sequence[str], fresh: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Make runs and yield their digests, or why there are none, one after another."""
    runs = every_run()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), fresh)
        for name in names:
            try:
                yield name, digests(runner.make(name, runs))
            except (RuntimeError, ValueError, OSError) as error:
                yield name, {"failed": str(error)}


def write(file: Path, kept: Mapping[str, Any]) -> None:
    """Write the digests, a run a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(one)}" for name, one in kept["runs"].items()]
    runs, by = ",\n".join(lines), json.dumps(kept["machine"])
    text = f'{{"machine": {by},\n"runs": {{\n{runs}\n}}}}\n'
    partial = file.with_suffix(".part")
    partial.write_text(text)
    partial.replace(file)


def make(file: Path, only: str | None, fresh: bool) -> int:
    """Write the digests of the runs that the file has not yet."""
    kept: dict[str, Any] = {"machine": machine(), "runs": {}}
    if file.exists():
        kept = json.loads(file.read_text())
        if kept["machine"] != machine():
            print(f"{file} is of another machine: {kept['machine']}, this is {machine()}")
            return 2
    missing = [name for name in selected(every_run(), only) if name not in kept["runs"]]
    failed = 0
    for name, digest in made(missing, fresh):
        if "failed" in digest:
            failed += 1
        else:
            kept["runs"][name] = digest
            write(file, kept)
        print(f"{name}: {digest.get('failed', 'made')}", flush=True)
    print(f"{len(missing) - failed} runs made, {failed} failed, {len(kept['runs'])} in {file}")
    return int(failed > 0)


def compare(file: Path, only: str | None, fresh: bool) -> int:
    """Make the runs again, and print which differ from the file."""
    kept = json.loads(file.read_text())
    if kept["machine"] != machine():
        print(f"bits may differ: {file} is of {kept['machine']}, this is {machine()}")
    names = selected(every_run(), only)
    found: list[str] = []
    for name, digest in made(names, fresh):
        lines = differences(kept["runs"], {name: digest})
        found += lines
        print("\n".join(lines) or f"{name}: equal", flush=True)
    print("\n".join([*found, f"{len(names) - len(found)} of {len(names)} runs are equal"]))
    return int(bool(found) or not names)


def main(argv: Sequence[str] | None = None) -> int:
    """Make or compare, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("make", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", metavar="PATTERN", help="runs whose names match")
    parser.add_argument("--fresh", action="store_true", help="an interpreter of its own for each")
    options = parser.parse_args(argv)
    action = make if options.action == "make" else compare
    return action(options.file, options.only, options.fresh)


if __name__ == "__main__":
    sys.exit(main())
