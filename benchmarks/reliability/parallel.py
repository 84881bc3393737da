"""How far training in several processes ends from training in one, on the same global batches.

    python benchmarks/reliability/parallel.py [--processes 2 4] [--output FILE]

For every loss, clip and number of stages: twenty steps on digits by the steps that `distill` takes,
once in one process and once in each number of them, and of all weights and running statistics the
largest difference. In float64 that shows what is computed; in float32, what rounding makes of it.
The last batch of each epoch has another size, odd, so that its parts differ. Takes half an
hour on two cores.

Where a ReLU's input is zero but for rounding, two runs part by a whole activation. `ties` has the
case that meets one, in other orders of the images and with SiLU, which has no such place.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from svdistill.common.files import write_atomically
from svdistill.config import DistillConfig
from svdistill.data import ImageData, load_images
from svdistill.distillation.adapters import Adapters
from svdistill.distillation.distiller import Distiller
from svdistill.losses import SumLoss
from svdistill.parallel import own_share
from svdistill.runs.records import environment
from svdistill.training.batch import TrainingBatch
from svdistill.training.optimizer import build_optimizer
from svdistill.training.setup import build_losses
from svdistill.training.step import DistillStep, Step, TaskStep, TransferStep

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reliability" / "parallel.json"
LOSSES = (
    *("svd", "position_svd", "fsp", "soft_target"),
    *("svd+soft_target", "position_svd+soft_target", "fsp+soft_target"),
    *("sum", "svd, adapters", "svd+soft_target, adapters"),
)
CLIPS = ("norm", "poster", "global", "none", "amortised")
STAGES = (1, 2)
TAPS = ("0", "1", "2")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
ORDERS = range(8)
IMAGES, BATCH, EPOCHS = 313, 32, 2  # ten batches an epoch, the last of 25 images
LEARNING_RATE = 0.001
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Case:
    """What is trained."""

    loss: str
    clip: str
    stages: int
    dtype: str
    order: int = 0  # of the images
    smooth: bool = False  # SiLU in place of ReLU

    @property
    def name(self) -> str:
        """Of files and tests."""
        chosen = f"{self.loss} {self.clip} {self.stages} {self.dtype}"
        order = f" order {self.order}" if self.order else ""
        return f"{chosen}{order}{' smooth' if self.smooth else ''}"


class Plain:
    """What steps use of an accelerator, in the precision that the weights have."""

    scaler = None

    def autocast(self) -> nullcontext[None]:
        """Nothing is cast."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Nothing is scaled."""
        loss.backward()


def cases(
    losses: Sequence[str] = LOSSES,
    clips: Sequence[str] = CLIPS,
    stages: Sequence[int] = STAGES,
    dtypes: Sequence[str] = tuple(DTYPES),
) -> list[Case]:
    """Every combination."""
    return [Case(*chosen) for chosen in product(losses, clips, stages, dtypes)]


def network(width: int, depth: int, activation: type[nn.Module]) -> nn.Sequential:
    """A small one of what the paper's MobileNets are made of."""

    def block(front: int, back: int, stride: int) -> nn.Sequential:
        channels = [front, *[back] * depth]
        convolutions = [
            nn.Sequential(
                nn.Conv2d(c, d, 3, stride if place == 0 else 1, padding=1, bias=False),
                nn.BatchNorm2d(d),
                activation(),
            )
            for place, (c, d) in enumerate(pairwise(channels))
        ]
        return nn.Sequential(*convolutions)

    stages = [block(3, width, 2), block(width, 2 * width, 2), block(2 * width, 2 * width, 1)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))
    return nn.Sequential(*stages, head)


def make_distiller(case: Case) -> Distiller:
    """A teacher and a student with batch norms, of more channels in the teacher where adapted."""
    name, _, adapted = case.loss.partition(", ")
    torch.manual_seed(0)
    activation = nn.SiLU if case.smooth else nn.ReLU
    teacher = network(12 if adapted else 8, depth=2, activation=activation)
    student = network(8, depth=1, activation=activation)
    chosen = cast(Any, "svd" if name == "sum" else name)
    losses = build_losses(DistillConfig(output="-", loss=chosen))
    clipped = losses.clipped
    if name == "sum":  # one that is summed over images beside one that is averaged
        clipped = SumLoss(
            [clipped, build_losses(DistillConfig(output="-", loss="fsp"))[0]], [1.0, 2.0]
        )
    adapters = Adapters([8, 16, 16], [12, 24, 24]) if adapted else None
    return Distiller(
        *(teacher, student, clipped),
        taps=TAPS,
        adapters=adapters,
        clip=case.clip,
        clip_interval=4,
        unclipped=losses.unclipped,
        weight_decay=WEIGHT_DECAY,
    ).to(DTYPES[case.dtype])


def steps_of(case: Case, distiller: Distiller) -> list[Step]:
    """The step of each epoch: both at once, or the transfer and then what is left."""
    plain = cast(Any, Plain())
    # Where nothing bounds a loss that is a sum over images, as their mean: training that diverges
    # would make much of the least rounding.
    bounded = case.stages == 1 and case.clip not in ("poster", "none")
    weight = 1.0 if bounded else 1.0 / BATCH
    if case.stages == 1:
        return [DistillStep(distiller, plain, 1.0, weight)] * EPOCHS
    transfer = TransferStep(distiller, plain, 1.0, weight)
    if distiller.unclipped is None:
        return [transfer, TaskStep(distiller.student, plain)]
    rest = Distiller(
        *(distiller.teacher, distiller.student, distiller.unclipped), taps=[], clip="none"
    )
    return [transfer, DistillStep(rest, plain, 1.0, 1.0)]


def trained(case: Case, data: ImageData) -> Tensor:
    """All weights and running statistics after twenty steps, on this process's parts of batches."""
    distiller = make_distiller(case)
    augmentation = data.augmentation("none")
    for epoch, step in enumerate(steps_of(case, distiller)):
        optimizer = build_optimizer("sgd", step.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        step.train_mode()
        order = EPOCHS * case.order + epoch
        for batch in data.train.batches(BATCH, device="cpu", order_seed=order, share=own_share()):
            images = augmentation.normalise(batch.images).to(DTYPES[case.dtype])
            step(TrainingBatch(images, batch.labels, part=batch.part), epoch)
            optimizer.step()
            optimizer.zero_grad()
    own = {id(p): p for step in steps_of(case, distiller) for p in step.parameters()}
    state = [*own.values(), *distiller.student.buffers()]
    return torch.cat([tensor.detach().flatten().double() for tensor in state])


def _work(rank: int, processes: int, chosen: list[Case], folder: str) -> None:
    torch.set_num_threads(1)
    data = load_images("digits", train_size=IMAGES)
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet-{processes}", rank=rank, world_size=processes
        )
    for case in chosen:
        found = trained(case, data)
        write_atomically(
            Path(folder) / f"{processes} {rank} {case.name}.pt", partial(torch.save, found)
        )
        if rank == 0:
            print(f"{processes} processes: {case.name}", file=sys.stderr, flush=True)
    if processes > 1:
        dist.destroy_process_group()


def weights(processes: int, chosen: list[Case], folder: Path) -> dict[Case, list[Tensor]]:
    """What each of so many processes has after each of the cases."""
    os.environ["OMP_NUM_THREADS"] = "1"
    missing = [
        case
        for case in chosen
        if not all(
            (folder / f"{processes} {rank} {case.name}.pt").exists() for rank in range(processes)
        )
    ]
    (folder / f"meet-{processes}").unlink(missing_ok=True)  # left by one that was killed
    if missing:
        mp.spawn(_work, args=(processes, missing, str(folder)), nprocs=processes)
    return {
        case: [
            torch.load(folder / f"{processes} {rank} {case.name}.pt", weights_only=True)
            for rank in range(processes)
        ]
        for case in chosen
    }


def differences(
    several: Sequence[int], chosen: list[Case], folder: Path
) -> Iterator[tuple[Case, int, float, float]]:
    """Per case and number of processes: the largest difference from one process, and how far the
    weights have moved.
    """
    alone = weights(1, chosen, folder)
    for processes in several:
        for case, found in weights(processes, chosen, folder).items():
            (expected,) = alone[case]
            start = torch.cat(
                [p.detach().flatten().double() for p in make_distiller(case).student.parameters()]
            )
            moved = float((expected[: len(start)] - start).abs().max())
            largest = max(float((rank - expected).abs().max()) for rank in found)
            yield case, processes, largest, moved


def by_threads() -> list[dict[str, Any]]:
    """The largest difference of one process with two threads from one with one."""
    data = load_images("digits", train_size=IMAGES)
    rows = []
    for case in cases(losses=["svd", "soft_target"], clips=["amortised"], stages=[1]):
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trained(case, data))
        largest = float((found[1] - found[0]).abs().max())
        rows.append({**vars(case), "threads": 2, "largest": largest})
        print(f"2 threads {case.name:40} {largest:.1e}", flush=True)
    return rows


def by_ties(folder: Path) -> list[dict[str, Any]]:
    """The largest difference of two processes where an unclipped gradient meets ties."""
    chosen = [
        Case("soft_target", "none", 1, "float32", order, smooth)
        for smooth in (False, True)
        for order in ORDERS
    ]
    rows = []
    for case, processes, largest, _ in differences([2], chosen, folder):
        rows.append({**vars(case), "processes": processes, "largest": largest})
        print(f"{processes} {case.name:40} {largest:.1e}", flush=True)
    return rows


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--clips", nargs="*", default=list(CLIPS), choices=CLIPS)
    parser.add_argument("--stages", type=int, nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--add", action="store_true", help="keep the file's other rows")
    parser.add_argument("--folder", type=Path, help="keeps what is there, to go on after a stop")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    chosen = cases(losses=options.losses, clips=options.clips, stages=options.stages)
    rows: list[dict[str, Any]] = (
        json.loads(options.output.read_text())["rows"] if options.add else []
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case, processes, largest, moved in differences(options.processes, chosen, folder):
            named = {**vars(case), "processes": processes}
            rows = [row for row in rows if {name: row[name] for name in named} != named]
            rows.append({**named, "largest": largest, "moved": moved})
            print(f"{processes} {case.name:40} {largest:.1e} (moved {moved:.1e})", flush=True)
        ties = by_ties(folder)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    setting = {"images": IMAGES, "batch": BATCH, "epochs": EPOCHS, "learning_rate": LEARNING_RATE}
    measured = {"rows": rows, "ties": ties, "threads": by_threads()}
    report = {"environment": environment(), **setting, **measured}
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
