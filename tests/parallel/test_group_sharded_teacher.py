"""A teacher that torch's FSDP shards over two processes teaches as it does in one piece."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.distillation.distiller import Distiller
from svdistill.losses import SoftTargetLoss, SVDLoss
from together import in_processes


def block(front, back):
    return nn.Sequential(nn.Conv2d(front, back, 3, padding=1), nn.BatchNorm2d(back), nn.ReLU())


def network():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(block(3, 8), block(8, 8), head)


def taught(teacher, student, rank):
    """What comes of three batches, of which one process has a part of another size each time."""
    distiller = Distiller(
        teacher, student, SVDLoss(), taps=["0", "1"], clip="norm", unclipped=SoftTargetLoss()
    )
    found = []
    for number in range(3):
        generator = torch.Generator().manual_seed(10 * rank + number)
        images = torch.randn(4 - rank * number, 3, 8, 8, generator=generator)
        student.zero_grad()
        out = distiller(images)
        distiller.backward(F.cross_entropy(out.logits, torch.arange(len(images))), out, progress=0)
        found += [out.transfer_loss.detach(), out.unclipped_loss.detach()]
        found += [parameter.grad for parameter in student.parameters()]
    return found, distiller._frozen_teacher.form


def both():
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole, student = network(), network()
    sharded = copy.deepcopy(whole)
    for part in (sharded[0], sharded[1], sharded):
        fully_shard(part, mesh=mesh)
    held = sum(weight.to_local().numel() for weight in sharded.parameters())
    share = held / sum(weight.numel() for weight in whole.parameters())
    of_sharded, form = taught(sharded, copy.deepcopy(student), dist.get_rank())
    of_whole, _ = taught(whole, copy.deepcopy(student), dist.get_rank())
    return {"sharded": of_sharded, "whole": of_whole, "form": form, "share": share}


@pytest.mark.slow
def test_a_sharded_teacher_teaches_the_same(tmp_path):
    for each in in_processes(2, both, tmp_path):
        assert each["form"] == "whole"
        assert 0.4 < each["share"] < 0.6
        torch.testing.assert_close(each["sharded"], each["whole"], rtol=0, atol=1e-6)
        assert float(each["whole"][0]) > 0
