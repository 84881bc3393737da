"""Check and time the GPU path of training: whole steps as CUDA graphs.

    PYTHONPATH=src python benchmarks/gpu.py                          # writes $OUT/gpu.json
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --quick     # tries the script itself

First it checks that a recorded step trains as the step itself, and that a step of the loop never
waits for the device. Then it times the paper's VGG at batch 128 in float32 and bf16, each way to
teach, kernel by kernel and recorded, and an epoch of 50,000 images that lie on the device. Results
are written after every case; what the file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from svdistill.data import Augmentation, ResidentSplit
    from svdistill.distillation.distiller import Distiller
    from svdistill.linalg import Convergence, truncated_svd, watch_convergence
    from svdistill.losses import (
        FSPLoss,
        Knowledge,
        SoftTargetLoss,
        SVDLoss,
        TransferLoss,
        dfv_distance,
    )
    from svdistill.losses.transfer import as_matrices
    from svdistill.networks import build_paper_network
    from svdistill.taps import FeatureTaps
    from svdistill.training.cuda_graphs import WARM_UP, CUDAGraphStep, CUDARecorder, Recorder
    from svdistill.training.metrics import EpochMeter
    from svdistill.training.step import DistillStep, Step, TaskStep, TrainingBatch
except ModuleNotFoundError as error:
    sys.exit(f"gpu.py: the package {error.name!r} is missing; install them all: pip install -e .")

CLASSES = 100
# After so many steps both kinds of a step with a clip_interval of 10 are recorded.
UNTIL_RECORDED = 45
# Way to teach: its loss and its clip, and whether knowledge comes without the teacher's run.
TAUGHT: dict[str, tuple[Callable[[], TransferLoss], str, bool]] = {
    "soft target": (SoftTargetLoss, "none", False),
    "FSP": (FSPLoss, "none", False),
    **{
        f"SVD, {clip}": (SVDLoss, clip, False)
        for clip in ("norm", "poster", "global", "none", "amortised")
    },
    "SVD, norm, from knowledge": (SVDLoss, "norm", True),
    "SVD, amortised, from knowledge": (SVDLoss, "amortised", True),
}


@dataclass(frozen=True)
class Setting:
    """How large everything is, and where."""

    device: torch.device
    width: float
    batch_size: int
    images: int
    steps: int
    rounds: int


class Precision:
    """What steps use of an accelerator."""

    scaler = None

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device

    def autocast(self) -> AbstractContextManager[Any]:
        """Run networks in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bf16")

    def backward(self, loss: Tensor) -> None:
        """As torch does it."""
        loss.backward()


class Again:
    """Records nothing: on a CPU it shows that the script runs."""

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Do it."""
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Return it."""
        return work


class Bench:
    """Networks and a batch, made anew for each case from the same seed."""

    def __init__(self, setting: Setting, precision: str, watch: Convergence) -> None:
        self.setting = setting
        self.watch = watch
        self.device = setting.device
        self.precision = Precision(precision, self.device)
        torch.manual_seed(0)
        self.teacher, self.student = (
            build_paper_network(name, CLASSES, setting.width).to(  # type: ignore[call-overload]
                self.device, memory_format=torch.channels_last
            )
            for name in ("vgg_teacher", "vgg_student")
        )
        self.teacher.eval().requires_grad_(False)
        images = torch.randn(setting.batch_size, 3, 32, 32, device=self.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (setting.batch_size,), device=self.device)

    def recorder(self) -> Recorder:
        """What records a step on this device."""
        return CUDARecorder(self.device) if self.device.type == "cuda" else Again()

    def step(self, way: str) -> tuple[Step, Distiller | None]:
        """A step of a fresh student."""
        student = copy.deepcopy(self.student)
        if way == "plain student":
            return TaskStep(student, self.precision), None
        loss, clip, _ = TAUGHT[way]
        distiller = Distiller(
            self.teacher, student, loss(), taps=student.tap_paths, clip=clip, weight_decay=1e-4
        ).to(self.device)
        return DistillStep(distiller, self.precision, 1.0, 1.0), distiller

    def knowledge(self, way: str, distiller: Distiller | None) -> Knowledge | None:
        """Of the batch, where the teacher shall not run."""
        if distiller is None or not TAUGHT[way][2]:
            return None
        with self.precision.autocast():
            return distiller.teach(self.images)

    def as_cuda_graph(self, step: Step) -> Step:
        """The step, recorded."""
        return CUDAGraphStep(step, self.recorder(), self.watch)

    def recorded(self, work: Callable[[], object]) -> Callable[[], object]:
        """Any work, recorded."""
        recorder = self.recorder()
        for _ in range(WARM_UP):
            recorder.warm_up(work)
        return recorder.record(work)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], warm_up: int) -> float:
        """Median over the rounds of the mean of so many calls in a row."""
        for _ in range(warm_up):
            run()
        times = []
        for _ in range(self.setting.rounds):
            self.synchronise()
            start = time.perf_counter()
            for _ in range(self.setting.steps):
                run()
            self.synchronise()
            times.append((time.perf_counter() - start) / self.setting.steps)
        return statistics.median(times)


def optimizer_of(step: Step) -> torch.optim.Optimizer:
    """The paper's."""
    return torch.optim.SGD(step.parameters(), 0.01, 0.9, nesterov=True, weight_decay=1e-4)


def training_step(bench: Bench, way: str, capture: bool) -> Callable[[], None]:
    """Teacher, student, losses, backward, update."""
    step, distiller = bench.step(way)
    knowledge = bench.knowledge(way, distiller)
    optimizer = optimizer_of(step)
    step.train_mode()
    if capture:
        step = bench.as_cuda_graph(step)

    def run() -> None:
        step(TrainingBatch(bench.images, bench.labels, knowledge), 0)
        optimizer.step()
        optimizer.zero_grad()

    return run


def floor(bench: Bench) -> None:
    """The teacher's forward pass, the student's, and two backward passes: see `bench step`."""
    parameters = list(bench.student.parameters())
    with bench.precision.autocast():
        teach(bench)
        logits = bench.student.train()(bench.images)
    loss = F.cross_entropy(logits.float(), bench.labels)
    torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.autograd.grad(loss, parameters)


@torch.no_grad()
def teach(bench: Bench) -> None:
    """The teacher's forward pass."""
    with bench.precision.autocast():
        bench.teacher(bench.images)


def parts(bench: Bench) -> dict[str, Callable[[], object]]:
    """What SVD and DFV do in a step, on the maps of both networks."""

    def maps(network: nn.Module) -> list[Tensor]:
        with torch.no_grad(), bench.precision.autocast():
            features = FeatureTaps(network, bench.student.tap_paths).run(bench.images).features
        return [as_matrices(feature).float() for feature in features]

    teacher_maps = maps(bench.teacher)
    student_maps = [matrices.requires_grad_() for matrices in maps(bench.student.eval())]
    teachers = [truncated_svd(matrices, 1).right_vectors for matrices in teacher_maps]
    students = [
        truncated_svd(matrices, 2).right_vectors[..., :1].detach().requires_grad_()
        for matrices in student_maps
    ]

    def student_svd() -> None:
        vectors = [truncated_svd(matrices, 2).right_vectors for matrices in student_maps]
        torch.autograd.grad(vectors, student_maps, [torch.ones_like(v) for v in vectors])

    def dfv() -> None:
        distances = [
            dfv_distance(*student, *teacher)
            for student, teacher in zip(pairwise(students), pairwise(teachers), strict=True)
        ]
        torch.autograd.grad(torch.stack(distances).sum(), students)

    return {
        "SVD of the teacher's maps": lambda: [truncated_svd(m, 1) for m in teacher_maps],
        "SVD of the student's maps, both ways": student_svd,
        "DFV, both ways": dfv,
    }


def check_training(bench: Bench, way: str) -> dict[str, Any]:
    """Compare the weights after forty steps, recorded and not; without dropout."""
    for module in bench.student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    moves = []
    for capture in (False, True):
        step, distiller = bench.step(way)
        knowledge = bench.knowledge(way, distiller)
        start = torch.cat([p.detach().flatten() for p in step.parameters()])
        optimizer = optimizer_of(step)
        step.train_mode()
        step = bench.as_cuda_graph(step) if capture else step
        for number in range(40):
            step(TrainingBatch(bench.images, bench.labels, knowledge), number // 20)
            optimizer.step()
            optimizer.zero_grad()
        moves.append(torch.cat([p.detach().flatten() for p in step.parameters()]) - start)
    apart = float((moves[0] - moves[1]).norm() / moves[0].norm())
    return {"apart_over_moved": apart, "passed": apart < 0.05}


class Epochs:
    """Epochs as the loop trains them: order, views, steps, update, schedule, meter."""

    def __init__(self, bench: Bench, way: str, capture: bool) -> None:
        setting = bench.setting
        pixels = torch.randint(
            256, (setting.images, 3, 32, 32), dtype=torch.uint8, device=bench.device
        )
        labels = torch.randint(CLASSES, (setting.images,), device=bench.device)
        self.bench = bench
        self.split = ResidentSplit(pixels, labels)
        self.augmentation = Augmentation("paper", 32, (0.5,) * 3, (0.25,) * 3).to(bench.device)
        step, _ = bench.step(way)
        self.optimizer = optimizer_of(step)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [10**6])
        step.train_mode()
        self.step = bench.as_cuda_graph(step) if capture else step

    def steps(self, epoch: int) -> Iterator[None]:
        """One epoch, a step at a time."""
        bench, meter = self.bench, EpochMeter(self.bench.device)
        for batch in self.split.batches(
            bench.setting.batch_size, device=bench.device, order_seed=epoch, drop_last=epoch == 0
        ):
            images = self.augmentation(batch.images, seed=0, indices=batch.indices, view=epoch)
            images = images.contiguous(memory_format=torch.channels_last)
            result = self.step(TrainingBatch(images, batch.labels), epoch)
            meter.update(result, batch.labels)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            yield

    def check_waits(self) -> dict[str, Any]:
        """Ten steps in which a wait raises, after those in which everything is recorded."""
        steps = self.steps(epoch=0)
        for _ in range(UNTIL_RECORDED):
            next(steps, None)
        with no_waits(self.bench.device):
            for _ in range(10):
                next(steps, None)
        return {"passed": True}

    def time(self) -> dict[str, Any]:
        """One epoch, after one in which everything is recorded."""
        for _ in self.steps(epoch=1):
            pass
        self.bench.synchronise()
        start = time.perf_counter()
        for _ in self.steps(epoch=1):
            pass
        self.bench.synchronise()
        seconds = time.perf_counter() - start
        watch = self.bench.watch
        return {
            "seconds": seconds,
            "images_per_second": len(self.split) / seconds,
            "minutes_for_200_epochs_of_50000": 200 * seconds * 50_000 / len(self.split) / 60,
            "svd_missed": int(watch.missed) / watch.decomposed if watch.decomposed else None,
        }


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def time_step(bench: Bench, way: str, capture: bool) -> dict[str, Any]:
    """One of the ways to teach, or what it is compared with."""
    if way in ("teacher forward", "floor"):
        run: Callable[[], object] = partial(teach if way == "teacher forward" else floor, bench)
        run = bench.recorded(run) if capture else run
    elif way in (named := parts(bench)):
        run = bench.recorded(named[way]) if capture else named[way]
    else:
        run = training_step(bench, way, capture)
    warm_up = UNTIL_RECORDED if capture else 5
    seconds = bench.seconds(run, min(warm_up, 5 * bench.setting.steps))
    return {"seconds": seconds, "images_per_second": bench.setting.batch_size / seconds}


PARTS = ("SVD of the teacher's maps", "SVD of the student's maps, both ways", "DFV, both ways")
TIMED = ("teacher forward", "plain student", "floor", *TAUGHT, *PARTS)


Case = Callable[[Setting, Convergence], dict[str, Any]]


def cases() -> Iterator[tuple[str, Case]]:
    """All cases by name, the most telling first."""
    for way in ("plain student", *TAUGHT):
        yield f"check: recorded as not: {way}", partial(_check_training, way)
    for way in ("plain student", "FSP", "SVD, norm", "SVD, amortised"):
        yield f"check: nothing waits: {way}", partial(_check_waits, way)
    precisions = ("bf16", "float32")
    for precision in precisions:
        for way in ("SVD, norm", "SVD, amortised", "plain student"):
            yield f"epoch: {way}, {precision}, recorded", partial(_epoch, way, precision, True)
    for capture in (True, False):
        kind = "recorded" if capture else "eager"
        for precision in precisions:
            for way in TIMED:
                yield f"step: {way}, {precision}, {kind}", partial(_step, way, precision, capture)
    for precision in precisions:
        yield (
            f"epoch: SVD, norm, {precision}, eager",
            partial(_epoch, "SVD, norm", precision, False),
        )


def _check_training(way: str, setting: Setting, watch: Convergence) -> dict[str, Any]:
    return check_training(Bench(setting, "float32", watch), way)


def _check_waits(way: str, setting: Setting, watch: Convergence) -> dict[str, Any]:
    return Epochs(Bench(setting, "float32", watch), way, True).check_waits()


def _epoch(
    way: str, precision: str, capture: bool, setting: Setting, watch: Convergence
) -> dict[str, Any]:
    return Epochs(Bench(setting, precision, watch), way, capture).time()


def _step(
    way: str, precision: str, capture: bool, setting: Setting, watch: Convergence
) -> dict[str, Any]:
    return time_step(Bench(setting, precision, watch), way, capture)


def summary(results: dict[str, Any]) -> list[str]:
    """Each step over the floor of its precision and kind, and the parts' shares of it."""
    lines = []
    for name, found in results.items():
        if "error" in found:
            lines.append(f"{name}: {found['error']}")
        elif name.startswith("step: "):
            _, precision, kind = name.removeprefix("step: ").rsplit(", ", 2)
            base = results.get(f"step: floor, {precision}, {kind}", {}).get("seconds")
            over = f", {found['seconds'] / base:.3f} floors" if base else ""
            rate = found["images_per_second"]
            lines.append(f"{name}: {1e3 * found['seconds']:.3f} ms, {rate:.0f} images/s{over}")
        else:
            lines.append(f"{name}: {found}")
    return lines


def measure(setting: Setting, path: Path, seconds: float) -> dict[str, Any]:
    """Run all cases that the file lacks, until the time is up; a failed one is tried again."""
    began = time.perf_counter()
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    cuda = setting.device.type == "cuda"
    results["machine"] = {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
        "batch_size": setting.batch_size,
        "width": setting.width,
    }
    left = [case for case in cases() if "error" in results.get(case[0], {"error": ""})]
    for name, run in sorted(left, key=lambda case: case[0] in results):  # what failed comes last
        if time.perf_counter() - began > seconds:
            print("out of time; call again for the rest", flush=True)
            break
        try:
            with warnings.catch_warnings(), watch_convergence(setting.device) as watch:
                warnings.simplefilter("error", RuntimeWarning)  # a step that was not recorded
                results[name] = run(setting, watch)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(f"{time.perf_counter() - began:6.1f} s  {name}: {results[name]}", flush=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        temporary.replace(path)
        if cuda:
            torch.cuda.empty_cache()
    return results


def main(arguments: list[str] | None = None) -> None:
    """Check, measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="default: $OUT/gpu.json, or gpu.json here")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no case after these")
    parser.add_argument("--quick", action="store_true", help="tiny networks: tries the script")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --device cpu --quick tries the script")
    setting = (
        Setting(device, width=0.05, batch_size=4, images=10, steps=1, rounds=1)
        if options.quick
        else Setting(device, width=1.0, batch_size=128, images=50_000, steps=20, rounds=5)
    )
    path = options.output or Path(os.environ.get("OUT", ".")) / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = measure(setting, path, options.seconds)
    print("\n".join(summary({k: v for k, v in results.items() if k != "machine"})))


if __name__ == "__main__":
    main()
