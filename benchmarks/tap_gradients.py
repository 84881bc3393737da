"""What each gradient of the truncated SVD sends to each tap of a student, against the exact one.

    python benchmarks/tap_gradients.py --student RUN --teacher RUN --data parquet:data/cifar100

The student is looked at as it was drawn from its run's seed, and as it came out. A tap's gradient
is that of the loss with respect to the tap's own map, as if no tap came after it. Prints a line for
each and writes `benchmarks/results/tap-gradients.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from svdistill.common.files import write_json
from svdistill.config import TrainConfig
from svdistill.data import Augmentation, load_images
from svdistill.linalg.gradients import GRADIENTS
from svdistill.losses import SVDLoss
from svdistill.losses.svd import SVDKnowledge
from svdistill.networks import PaperNetwork
from svdistill.runs import load_student
from svdistill.runs.directory import stored_values
from svdistill.runs.weights import read_card, weights_file
from svdistill.taps import FeatureTaps
from svdistill.training.setup import new_student
from svdistill_benchmarks.machine import machine

RESULTS: Final = Path(__file__).resolve().parent / "results" / "tap-gradients.json"
VECTORS: Final = (1, 4)
IMAGES: Final = 256


@dataclass(frozen=True)
class TapGradient:
    """The gradient at one tap.

    Attributes:
        student: `drawn` or `trained`.
        vectors: k of the loss.
        gradient: the formula.
        tap: module path.
        positions, channels: of its map.
        norm: of the gradient over all images.
        share_of_exact: that norm over the exact gradient's.
        cosine: with the exact gradient; None where this one is zero.
    """

    student: str
    vectors: int
    gradient: str
    tap: str
    positions: int
    channels: int
    norm: float
    share_of_exact: float
    cosine: float | None


def tap_gradients(
    student: nn.Module, teacher: nn.Module, taps: Sequence[str], images: Tensor, vectors: int
) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Formula, tap, its gradient and the exact one, [B, D, H, W], in float64."""
    with torch.no_grad():
        maps = FeatureTaps(student, taps).run(images).features
        knowledge = SVDLoss(vectors).extract(FeatureTaps(teacher, taps).run(images).features, None)
    exact = _gradients(maps, SVDLoss(vectors), knowledge)
    for name in GRADIENTS:
        gradients = _gradients(maps, SVDLoss(vectors, gradient=name), knowledge)
        yield from zip([name] * len(taps), taps, gradients, exact, strict=True)


def _gradients(
    maps: Sequence[Tensor], loss: SVDLoss, knowledge: SVDKnowledge
) -> tuple[Tensor, ...]:
    leaves = [feature_map.detach().requires_grad_() for feature_map in maps]
    value = loss(leaves, torch.empty(0), knowledge)
    return torch.autograd.grad(value, leaves, materialize_grads=True)


def _row(
    student: str, vectors: int, name: str, tap: str, gradient: Tensor, exact: Tensor
) -> TapGradient:
    norm, true = float(gradient.norm()), float(exact.norm())
    inner = float((gradient * exact).sum())
    return TapGradient(
        student=student,
        vectors=vectors,
        gradient=name,
        tap=tap,
        positions=gradient[0, 0].numel(),
        channels=gradient.shape[1],
        norm=norm,
        share_of_exact=norm / true,
        cosine=inner / (norm * true) if norm else None,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True, help="run directory with weights")
    parser.add_argument("--teacher", required=True, help="run directory with weights")
    parser.add_argument("--data", required=True, help="as for `svdistill train`")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    config = stored_values(Path(options.student) / "config.yaml")
    data = load_images(options.data, classes_every=config["classes_every"])
    card = read_card(weights_file(Path(options.teacher)))
    known = data if card is None else card  # the teacher must see what it knows
    augmentation = Augmentation("none", data.image_shape[-1], known.mean, known.std)
    batch = next(data.test.part(0, IMAGES).batches(IMAGES, device="cpu", order_seed=None))
    images = augmentation.normalise(batch.images).double()
    drawn = TrainConfig(
        output="", network=config["network"], width=config["width"], seed=config["seed"]
    )
    students: dict[str, PaperNetwork] = {
        "drawn": cast(PaperNetwork, new_student(drawn, data, torch.device("cpu"))),
        "trained": cast(PaperNetwork, load_student(options.student)),
    }
    teacher = load_student(options.teacher).double().eval()
    rows = []
    taps = students["drawn"].tap_paths
    for state, student in students.items():
        for vectors in VECTORS:
            found = tap_gradients(student.double().eval(), teacher, taps, images, vectors)
            for name, tap, gradient, exact in found:
                rows.append(_row(state, vectors, name, tap, gradient, exact))
                row = rows[-1]
                cosine = "      " if row.cosine is None else f"{row.cosine:6.3f}"
                print(
                    f"{state:8} k={vectors}  {tap:8} {row.positions:4}x{row.channels:<4} "
                    f"{name:8} norm {row.norm:9.3g}  of exact {row.share_of_exact:6.3f}  "
                    f"cosine {cosine}",
                    flush=True,
                )
    write_json(
        options.output,
        {
            "machine": machine(),
            "network": config["network"],
            "images": IMAGES,
            "rows": [asdict(row) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
