"""Two processes with half a batch each against one with all of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from svdistill.distillation.adapters import Adapters
from svdistill.distillation.distiller import Distiller
from svdistill.losses import SVDLoss

STEPS = 12
CLIPS = ("norm", "poster", "global", "none", "amortised")
# Task and transfer; the transfer alone; both, with adapters that only the transfer reaches.
STAGES = ("both", "transfer", "adapted")
ADAPTERS = 4 * 7  # their weights
pytestmark = pytest.mark.slow  # two processes, each with all of them


def network(width: int, front: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, front, 3, padding=1),
        nn.Sequential(nn.Conv2d(front, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, 6, 1)),
        nn.Flatten(),
        nn.Linear(6 * 36, 5),
    )


def make(clip: str, stage: str) -> Distiller:
    torch.manual_seed(0)
    adapted = stage == "adapted"
    return Distiller(
        network(8, 7 if adapted else 4).double(),
        network(5).double(),
        SVDLoss(reduction="mean"),
        taps=["0", "1"],
        adapters=Adapters([4, 6], [7, 6]).double() if adapted else None,
        clip=clip,
        clip_interval=4,
    )


def train(clip: str, stage: str, part: slice) -> torch.Tensor:
    """Weights after a few steps, each on the given part of its batch."""
    distiller = make(clip, stage)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.05)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64)[part]
        labels = torch.randint(5, (8,), generator=generator)[part]
        out = distiller(images)
        task = torch.zeros(()) if stage == "transfer" else F.cross_entropy(out.logits, labels)
        distiller.backward(task, out, progress=step // 6)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in distiller.trainable_parameters()])


def run(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    weights = {
        f"{clip}-{stage}": train(clip, stage, slice(4 * rank, 4 * rank + 4))
        for clip in CLIPS
        for stage in STAGES
    }
    torch.save(weights, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("clip", CLIPS)
def test_two_processes_train_as_one(
    clip: str, stage: str, two_processes: list[dict[str, torch.Tensor]]
) -> None:
    name = f"{clip}-{stage}"
    alone = train(clip, stage, slice(None))
    for weights in two_processes:
        torch.testing.assert_close(weights[name], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stage", STAGES)
def test_training_moves_the_weights(
    stage: str, two_processes: list[dict[str, torch.Tensor]]
) -> None:
    start = torch.cat([p.detach().flatten() for p in make("norm", stage).trainable_parameters()])
    for clip in CLIPS:
        weights = two_processes[0][f"{clip}-{stage}"]
        assert float((weights - start).abs().max()) > 1e-3
        if stage == "adapted":  # they come last
            assert float((weights - start)[-ADAPTERS:].abs().max()) > 1e-3
