"""Two processes with half a batch each against one with all of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from svdistill.distiller import Distiller
from svdistill.losses import SVDLoss

STEPS = 12
CLIPS = ("norm", "poster", "global", "none", "amortised")


def network(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(nn.Conv2d(4, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, 6, 1)),
        nn.Flatten(),
        nn.Linear(6 * 36, 5),
    )


def train(clip: str, transfer_only: bool, part: slice) -> torch.Tensor:
    """Weights after a few steps, each on the given part of its batch."""
    torch.manual_seed(0)
    teacher, student = network(8).double(), network(5).double()
    distiller = Distiller(
        teacher, student, SVDLoss(reduction="mean"), taps=["0", "1"], clip=clip, clip_interval=4
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64)[part]
        labels = torch.randint(5, (8,), generator=generator)[part]
        out = distiller(images)
        task = F.cross_entropy(out.logits.detach() if transfer_only else out.logits, labels)
        distiller.backward(task, out, progress=step // 6)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])


def run(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    weights = {
        f"{clip}-{stage}": train(clip, stage == "transfer", slice(4 * rank, 4 * rank + 4))
        for clip in CLIPS
        for stage in ("both", "transfer")
    }
    torch.save(weights, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("stage", ["both", "transfer"])
@pytest.mark.parametrize("clip", CLIPS)
def test_two_processes_train_as_one(
    clip: str, stage: str, two_processes: list[dict[str, torch.Tensor]]
) -> None:
    name = f"{clip}-{stage}"
    alone = train(clip, stage == "transfer", slice(None))
    for weights in two_processes:
        torch.testing.assert_close(weights[name], alone, rtol=0, atol=1e-10)


def test_training_moves_the_weights(two_processes: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    network(8)
    start = torch.cat([p.detach().flatten() for p in network(5).double().parameters()])
    for weights in two_processes[0].values():
        assert float((weights - start).abs().max()) > 1e-3
